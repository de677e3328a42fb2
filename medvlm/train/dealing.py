"""Deals the inputs of a tower over the ranks, so that each computes about as many, whoever's samples they belong to.

A rank with a volume of 64 slices would otherwise keep seven ranks with a radiograph each waiting. Only the rows that a
rank has too many of travel: their pixels to other ranks, their features back, and in the backward pass of a trained
tower the gradients of the features. Each row is computed by the same weights, so features and the sum of the gradients
over the ranks are those without dealing, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from medvlm.train.exchange import all_gather, exchange_rows, find_most
from medvlm.train.pieces import Piece, RunPieces, deal_pieces

Run = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""Rows of pixels [n, ...] -> tensors [n, ...]; each row depends on its own pixels only."""


class Dealing:
    """Called on every rank equally often, within the forward pass of training. Created on every rank.

    is_sharded: whether ranks gather weights within the tower. Then all run the same number of rows, some of them zeros,
    so that an encoder that runs its rows in chunks makes the same number of calls everywhere."""

    def __init__(self, is_sharded: bool = False) -> None:
        self.is_sharded = is_sharded
        # A group of its own: DDP sends gradients in the same backward pass, and not at the same place on every rank.
        self.group: Any = dist.new_group()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def __call__(self, run: Run, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """run(rows), of which other ranks may have computed a part. A rank may have no rows."""
        counts = torch.zeros(self.world, dtype=torch.int64, device=rows.device)
        all_gather(counts, counts.new_tensor([len(rows)]), group=self.group)
        moves = plan_moves(counts.tolist())
        least = max(1, -(-int(counts.sum()) // self.world) if self.is_sharded else 1)
        if not any(map(any, moves)):
            return _run_some(run, rows, least)
        given, taken = moves[self.rank], [to[self.rank] for to in moves]
        kept = len(rows) - sum(given)
        arrived = exchange_rows(rows[kept:], given, taken, self.group)
        done = _run_some(run, torch.cat([rows[:kept], arrived]), least)
        # Each by itself: what the loss does not use (pooled features) must not get a gradient of zeros.
        return tuple(torch.cat([each[:kept], exchange_rows(each[kept:], taken, given, self.group)]) for each in done)

    def deal_pieces(
        self, run: RunPieces, pieces: Sequence[Piece], blank: Piece
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The same for pictures of any sizes, see pieces.py."""
        return deal_pieces(run, pieces, blank, self.rank, self.world, self.group)


class Agreement:
    """What all ranks agree on while they call a model whose weights they exchange within its towers.

    calls_apart: whether each rank now calls it on its own, with all weights gathered."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.calls_apart = device, False

    def find_most(self, number: int) -> int:
        """The largest of these numbers over the ranks."""
        return number if self.calls_apart else find_most(number, self.device)


def plan_moves(counts: Sequence[int]) -> list[list[int]]:
    """[giver][taker] -> number of rows, so that no rank computes more than one row more than another and as few rows as
    possible travel. counts: of the rows of each rank."""
    world, total = len(counts), sum(counts)
    # Those with the most rows compute the one row more, if the number is not divisible.
    most_first = sorted(range(world), key=lambda rank: (-counts[rank], rank))
    shares = [0] * world
    for place, rank in enumerate(most_first):
        shares[rank] = total // world + (place < total % world)
    moves = [[0] * world for _ in range(world)]
    taker = 0
    for giver in range(world):
        surplus = counts[giver] - shares[giver]
        while surplus > 0:
            missing = shares[taker] - counts[taker] - sum(own[taker] for own in moves)
            if missing <= 0:
                taker += 1
                continue
            moves[giver][taker] = min(surplus, missing)
            surplus -= moves[giver][taker]
    return moves


def _run_some(run: Run, rows: torch.Tensor, least: int) -> tuple[torch.Tensor, ...]:
    """Runs at least this many rows: rows of zeros are added, and their results dropped. So a tower without rows stays
    in the graph too."""
    if len(rows) >= least:
        return run(rows)
    filled = torch.cat([rows, rows.new_zeros(least - len(rows), *rows.shape[1:])])
    return tuple(each[: len(rows)] for each in run(filled))
