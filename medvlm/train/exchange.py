"""What ranks exchange within a step, in as few collectives as possible: each one waits for the slowest rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard

# Their names before torch 2.14, which warns of them.
all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def find_most(number: int, device: torch.device) -> int:
    """The largest of these numbers over the ranks. Called on every rank."""
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gather_rows(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Stacks [n, ...] of every rank to [world * n, ...], for all tensors in one collective; n is the same for all.

    Gradients flow back to the rank of each row, in one collective too. Called on every rank.
    """
    found: tuple[torch.Tensor, ...] = _GatherRows.apply(*tensors)
    return found


def rotate(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Sends the tensors to the next rank, and returns those of the rank before, which have the same shapes, in one
    message. Without gradients. Called on every rank."""
    world, rank = dist.get_world_size(), dist.get_rank()
    flat = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    own = torch.cat(flat)
    arrived = torch.empty_like(own)
    ways = [
        dist.P2POp(dist.isend, own, (rank + 1) % world),
        dist.P2POp(dist.irecv, arrived, (rank - 1) % world),
    ]
    for work in dist.batch_isend_irecv(ways):
        work.wait()
    parts = arrived.split([len(part) for part in flat])
    # Cloned, because a tensor cannot begin at an address that its numbers do not fit.
    return tuple(p.clone().view(t.dtype).reshape(t.shape) for p, t in zip(parts, tensors, strict=True))


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        world, rows = dist.get_world_size(), len(tensors[0])
        flat = [tensor.detach().contiguous().reshape(rows, -1).view(torch.uint8) for tensor in tensors]
        sizes = [part.shape[1] for part in flat]
        own = torch.cat(flat, 1)
        gathered = own.new_empty(world * rows, own.shape[1])
        all_gather(gathered, own)
        found = [
            part.contiguous().view(tensor.dtype).reshape(world * rows, *tensor.shape[1:])
            for part, tensor in zip(gathered.split(sizes, 1), tensors, strict=True)
        ]
        ctx.mark_non_differentiable(*(each for each in found if not each.is_floating_point()))
        ctx.rows = rows
        ctx.likes = [tensor.new_empty(0) if tensor.is_floating_point() else None for tensor in tensors]
        ctx.shapes = [tensor.shape for tensor in tensors]
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Every rank has a share of the loss, which may depend on every row, so the gradients are summed.
        asked = [i for i, like in enumerate(ctx.likes) if like is not None]
        flat = [grads[i].reshape(len(grads[i]), -1) for i in asked]
        together = torch.cat(flat, 1)
        own = together.new_empty(ctx.rows, together.shape[1])
        reduce_scatter(own, together)
        found: list[torch.Tensor | None] = [None] * len(grads)
        for i, part in zip(asked, own.split([part.shape[1] for part in flat], 1), strict=True):
            found[i] = part.reshape(ctx.shapes[i]).to(ctx.likes[i].dtype)
        return tuple(found)


def exchange_rows(rows: torch.Tensor, given: Sequence[int], taken: Sequence[int], group: Any) -> torch.Tensor:
    """The rows that other ranks give to this one. given, taken: their numbers, by rank. Gradients go back."""
    found: torch.Tensor = _ExchangeRows.apply(rows, given, taken, group)
    return found


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, given: list[int], taken: list[int], group: Any) -> torch.Tensor:
        ctx.given, ctx.taken, ctx.group = given, taken, group
        return send_rows(rows, given, taken, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return send_rows(grads[0], ctx.taken, ctx.given, ctx.group), None, None, None


def send_rows(rows: torch.Tensor, given: list[int], taken: list[int], group: Any) -> torch.Tensor:
    found = rows.new_empty(sum(taken), *rows.shape[1:])
    dist.all_to_all_single(found, rows.contiguous(), taken, given, group=group)
    return found


def share_out(costs: Sequence[float], world: int) -> list[int]:
    """Item -> the rank that does it, so that the sums of the costs are about equal: the dearest first, each to the rank
    with the least so far."""
    loads, owners = [0.0] * world, [0] * len(costs)
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owners[item] = loads.index(min(loads))
        loads[owners[item]] += costs[item]
    return owners


def exchange_shares(
    own: Sequence[torch.Tensor], owners: Sequence[int], likes: Sequence[torch.Tensor]
) -> Callable[[], list[torch.Tensor]]:
    """Sends the tensors that this rank has computed, in one collective. Returns a function that waits for those of the
    others and returns all.

    own: those of this rank, in order. likes: item -> a tensor of its shape, dtype and device.
    """
    sizes: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    for like, owner in zip(likes, owners, strict=True):
        sizes[owner].append(like.numel())
    arrive = _gather_parts(own, sizes, likes[0])

    def wait() -> list[torch.Tensor]:
        parts = [iter(each) for each in arrive()]
        return [next(parts[owner]).reshape(like.shape) for like, owner in zip(likes, owners, strict=True)]

    return wait


def unshard_all(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The whole tensors of which each rank has some rows, in one collective. Others are returned as they are."""
    if not any(isinstance(each, DTensor) for each in tensors):
        return list(tensors)
    world, own, sizes = dist.get_world_size(), list[torch.Tensor](), list[list[int]]()
    for each in tensors:
        assert isinstance(each, DTensor) and each.placements == (Shard(0),), "FSDP2 shards the rows of every parameter"
        own.append(each.to_local())
    for rank in range(world):
        sizes.append([_count_rows(len(each), rank, world) * each.shape[1:].numel() for each in tensors])
    parts = _gather_parts(own, sizes, own[0])()
    return [torch.cat(rows).reshape(each.shape) for each, *rows in zip(tensors, *parts, strict=True)]


def _count_rows(count: int, rank: int, world: int) -> int:
    """As torch.chunk splits them: the last ranks may have fewer or none."""
    size = -(-count // world)
    return min(size, max(0, count - rank * size))


def _gather_parts(
    own: Sequence[torch.Tensor], sizes: Sequence[Sequence[int]], like: torch.Tensor
) -> Callable[[], list[tuple[torch.Tensor, ...]]]:
    """Starts to gather them. Returns a function that waits, and returns rank -> its parts, flat. sizes: rank -> the
    numbers of elements of its parts."""
    most = max(sum(each) for each in sizes)
    given = torch.cat([each.reshape(-1) for each in (*own, like.new_zeros(most - sum(sizes[dist.get_rank()])))])
    gathered = given.new_empty(len(sizes) * most)
    work = all_gather(gathered, given, async_op=True)

    def wait() -> list[tuple[torch.Tensor, ...]]:
        work.wait()
        rows = zip(gathered.view(len(sizes), most), sizes, strict=True)
        return [row.split([*each, most - sum(each)])[:-1] for row, each in rows]

    return wait


def list_constant_buffers(model: nn.Module) -> list[str]:
    """The names of the buffers that no forward pass of training changes: those that a checkpoint does not hold (numbers
    of positions, frequencies), and those of modules in eval mode."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, _ in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set or not module.training
    ]
