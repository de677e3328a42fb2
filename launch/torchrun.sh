#!/usr/bin/env bash
# Train with one process per GPU, on one or several nodes. Run this on every node with the same arguments.
#   launch/torchrun.sh recipes/phantom.yaml [key.path=value ...]
# Environment variables:
#   GPUS      number of processes on this node; default: its number of GPUs, or 1 without GPUs
#   NODES     number of nodes; 2:4 keeps running with as few as 2 nodes and takes up to 4 as they return
#   NODE      index of this node, starting at 0; node 0 hosts the rendezvous, so the job ends if it dies
#   HEAD      host name or address of node 0 as seen by the other nodes, and a free port
#   JOB       job id: the same on all nodes, different for each attempt
#   RESTARTS  how often to restart the processes after one has died; default: 3 with several nodes, otherwise 0
# On hosts with several networks, choose one with GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME.
set -euo pipefail

NODES=${NODES:-1} NODE=${NODE:-0} HEAD=${HEAD:-127.0.0.1:29500} JOB=${JOB:-medvlm}
if [ -z "${GPUS:-}" ]; then
    GPUS=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
    [ "$GPUS" -gt 0 ] || GPUS=1
fi
[ "$NODES" = 1 ] && RESTARTS=${RESTARTS:-0} || RESTARTS=${RESTARTS:-3}

# Node 0 is told to host the rendezvous. Otherwise torchrun guesses from host names, which often have several addresses.
# Each node announces the address from which it reaches node 0, because not every cluster resolves its own host names.
host=${HEAD%:*}
if [ "$NODE" = 0 ]; then
    keeps=1 address=$host
else
    keeps=0
    address=$(python3 -c 'import socket, sys
family, *_, to = socket.getaddrinfo(sys.argv[1], 9, type=socket.SOCK_DGRAM)[0]
with socket.socket(family, socket.SOCK_DGRAM) as route:
    route.connect(to)  # sends nothing
    print(route.getsockname()[0])' "$host")
fi

# Do not share this store with the workers: it would keep addresses of dead workers, and restarted ones could not meet.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# --signals-to-handle: torchrun forwards only these signals to the workers; any other signal kills torchrun itself.
# --shutdown-timeout: seconds for the workers to save before they are killed; the scheduler must allow more.
# A node counts as lost after 3 missed keep-alives at intervals of 3 s.
exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" --max-restarts "$RESTARTS" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "$JOB" --local-addr "$address" \
    --rdzv-conf "is_host=$keeps,keep_alive_interval=3,keep_alive_max_attempt=3,last_call_timeout=5" \
    --signals-to-handle SIGTERM,SIGINT,SIGUSR1 --shutdown-timeout 150 \
    -m medvlm train "$@"
