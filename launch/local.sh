#!/usr/bin/env bash
# Train with one process on this machine. Run the same command again to resume.
#   launch/local.sh recipes/phantom.yaml [key.path=value ...]
# Exit codes: 0, done; 2, the recipe or the data is wrong; 75, preempted (SIGTERM) and saved: run the command again.
exec medvlm train "$@"
