#!/usr/bin/env bash
# One process a GPU, on one node or several. Run it on every node with the same arguments.
#   launch/torchrun.sh recipes/phantom.yaml [key.path=value ...]
# From the environment:
#   GPUS      processes on this node; default: all its GPUs, or 1
#   NODES     how many nodes; 2:4 goes on with what is left down to 2, and takes up to 4 as they come back
#   NODE      number of this node, from 0; where nodes meet is kept by node 0 and ends with it
#   HEAD      name or address of node 0, as the others see it, and a free port
#   JOB       the same on all nodes, another for each attempt
#   RESTARTS  how often processes are started again after one of them died; default: 3 with several nodes, else 0
# On hosts with several networks, say which one: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME.
set -euo pipefail

NODES=${NODES:-1} NODE=${NODE:-0} HEAD=${HEAD:-127.0.0.1:29500} JOB=${JOB:-medvlm}
if [ -z "${GPUS:-}" ]; then
    GPUS=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
    [ "$GPUS" -gt 0 ] || GPUS=1
fi
[ "$NODES" = 1 ] && RESTARTS=${RESTARTS:-0} || RESTARTS=${RESTARTS:-3}

# Who keeps the meeting place is said, not guessed from host names, which often have several addresses. A node is known to
# the others by the address with which it reaches node 0, since not every cluster resolves its own host names.
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

# Shared with the workers, the store still holds the addresses of those that died, and no new attempt can meet.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# Signals: torchrun dies of any other than those it is told, and would not pass them on. It gives a save so many seconds
# before it kills; the scheduler must give more. A node is taken for lost after 3 s x 3 of silence.
exec torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" --max-restarts "$RESTARTS" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "$JOB" --local-addr "$address" \
    --rdzv-conf "is_host=$keeps,keep_alive_interval=3,keep_alive_max_attempt=3,last_call_timeout=5" \
    --signals-to-handle SIGTERM,SIGINT,SIGUSR1 --shutdown-timeout 150 \
    -m medvlm train "$@"
