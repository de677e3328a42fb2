#!/usr/bin/env bash
# One process on this machine. Run the same line again to go on after a stop.
#   launch/local.sh recipes/phantom.yaml [key.path=value ...]
# Exit code 0: done. 2: the recipe or the data is wrong. 75: preempted (SIGTERM), saved; run it again.
exec medvlm train "$@"
