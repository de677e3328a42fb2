#!/usr/bin/env bash
# One process a GPU, on one node or several. Run it on every node with the same arguments.
#   launch/torchrun.sh recipes/phantom.yaml [key.path=value ...]
# From the environment: GPUS (processes a node; default: all GPUs, or 1), NODES, NODE (0 .. NODES-1), HEAD (host:port of node 0).
set -euo pipefail

NODES=${NODES:-1} NODE=${NODE:-0} HEAD=${HEAD:-127.0.0.1:29500}
if [ -z "${GPUS:-}" ]; then
    GPUS=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
    [ "$GPUS" -gt 0 ] || GPUS=1
fi

# torchrun dies of any other signal and leaves its workers behind, still writing; with these it passes them on.
exec torchrun --nnodes "$NODES" --node-rank "$NODE" --nproc-per-node "$GPUS" \
    --master-addr "${HEAD%:*}" --master-port "${HEAD##*:}" \
    --signals-to-handle SIGTERM,SIGINT,SIGUSR1 \
    -m medvlm train "$@"
