#!/usr/bin/env bash
# One process on this machine, started again after a preemption (exit code 75: saved, run again).
#   launch/local.sh recipes/phantom.yaml [key.path=value ...]
set -uo pipefail

while true; do
    medvlm train "$@"
    code=$?
    [ "$code" -eq 75 ] || exit "$code"
    echo "preempted after a clean save; going on from there"
done
