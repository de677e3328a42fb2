"""Deals pictures and tiles of any sizes over the ranks, for towers that do not take rows of one shape.

As dealing.py: what a rank has too much of travels there, and features and their gradients travel back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medvlm.train.exchange import all_gather, exchange_rows, send_rows

Piece = Mapping[str, torch.Tensor]
"""What a tower reads of one picture or tile. Pieces differ in the sizes of their tensors, not in their names, types and
numbers of axes."""
RunPieces = Callable[[Sequence[Piece]], list[torch.Tensor]]
"""Pieces -> the features of each, [tokens, channels]. Pieces differ in tokens."""
Shapes = list[list[int]]
"""Of the tensors of a piece, in the order of their names in `blank`."""


@dataclass(frozen=True)
class Moves:
    """Of one rank. kept: the numbers of its own pieces that it computes. given: rank -> of those that go there. taken:
    rank -> of that rank's pieces that come here."""

    kept: list[int]
    given: list[list[int]]
    taken: list[list[int]]


def deal_pieces(
    run: RunPieces, pieces: Sequence[Piece], blank: Piece, rank: int, world: int, group: Any
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """run(pieces), of which other ranks may have computed a part, and a 0 that depends on all that this rank has
    computed for others, so that it takes part in their backward pass.

    blank: a piece for a rank that has nothing to compute. Called once per pass on every rank, which may have no
    pieces."""
    shapes = _gather_shapes(pieces, blank, world, group)
    takers = assign([[max(map(math.prod, piece)) for piece in own] for own in shapes])
    if all(taker == owner for owner, own in enumerate(takers) for taker in own):
        done = run(pieces or [blank])
        return (done, done[0].new_zeros(())) if pieces else ([], 0 * done[0].sum())
    moves = _list_moves(takers, rank)
    arrived = _send_pieces(pieces, moves, shapes, blank, group)
    kept = [pieces[i] for i in moves.kept]
    done = run([*kept, *arrived] or [blank])
    theirs = done[len(kept) :][: len(arrived)]
    sizes, back = _send_features(theirs, done[0], moves, group)
    found = dict(zip(moves.kept, done, strict=False))
    found |= dict(zip([i for own in moves.given for i in own], back.split(sizes), strict=True))
    return [found[i] for i in range(len(pieces))], 0 * (back.sum() + done[0].sum())


def assign(costs: Sequence[Sequence[float]]) -> list[list[int]]:
    """Rank -> who computes each of its pieces. Pieces move from the rank with the most work to the one with the least,
    as long as that makes the larger of the two smaller; none moves twice. costs: rank -> of its pieces."""
    takers = [[rank] * len(own) for rank, own in enumerate(costs)]
    loads = [float(sum(own)) for own in costs]
    while True:
        most, least = loads.index(max(loads)), loads.index(min(loads))
        gap = loads[most] - loads[least]
        movable = [i for i, cost in enumerate(costs[most]) if takers[most][i] == most and 0 < cost < gap]
        if not movable:
            return takers
        place = min(movable, key=lambda i: (abs(costs[most][i] - gap / 2), -i))
        takers[most][place] = least
        loads[most] -= costs[most][place]
        loads[least] += costs[most][place]


def _list_moves(takers: Sequence[Sequence[int]], rank: int) -> Moves:
    def list_places(owner: int, taker: int) -> list[int]:
        return [i for i, each in enumerate(takers[owner]) if each == taker]

    others = [None if other == rank else other for other in range(len(takers))]
    return Moves(
        kept=list_places(rank, rank),
        given=[[] if other is None else list_places(rank, other) for other in others],
        taken=[[] if other is None else list_places(other, rank) for other in others],
    )


def _gather_shapes(pieces: Sequence[Piece], blank: Piece, world: int, group: Any) -> list[list[Shapes]]:
    """Rank -> the shapes of its pieces."""
    for piece in pieces:
        assert piece.keys() == blank.keys(), (sorted(piece), sorted(blank))
    axes, device = [tensor.ndim for tensor in blank.values()], next(iter(blank.values())).device
    counts = torch.zeros(world, dtype=torch.int64, device=device)
    all_gather(counts, counts.new_tensor([len(pieces)]), group=group)
    most = max(1, int(counts.max()))
    own = torch.zeros(most, sum(axes), dtype=torch.int64)
    for row, piece in zip(own, pieces, strict=False):
        row.copy_(torch.tensor([size for name in blank for size in piece[name].shape]))
    tables = own.new_empty(world * most, sum(axes), device=device)
    all_gather(tables, own.to(device), group=group)
    rows = [[[each.tolist() for each in row.split(axes)] for row in table] for table in tables.cpu().split(most)]
    return [own_rows[:number] for own_rows, number in zip(rows, counts.tolist(), strict=True)]


def _send_pieces(
    pieces: Sequence[Piece], moves: Moves, shapes: Sequence[Sequence[Shapes]], blank: Piece, group: Any
) -> list[Piece]:
    """The pieces that other ranks give to this one, in one exchange of bytes."""
    like = next(iter(blank.values()))
    parts = [[_as_bytes(pieces[i][name]) for i in own for name in blank] for own in moves.given]
    sizes = [
        [
            math.prod(shape) * tensor.element_size()
            for i in own
            for shape, tensor in zip(shapes[giver][i], blank.values(), strict=True)
        ]
        for giver, own in enumerate(moves.taken)
    ]
    sent = torch.cat([like.new_empty(0, dtype=torch.uint8), *(part for own in parts for part in own)])
    found = send_rows(sent, [sum(map(len, own)) for own in parts], list(map(sum, sizes)), group)
    each = iter(found.split([size for own in sizes for size in own]))
    return [
        {
            name: next(each).clone().view(tensor.dtype).reshape(shape)
            for (name, tensor), shape in zip(blank.items(), shapes[giver][i], strict=True)
        }
        for giver, own in enumerate(moves.taken)
        for i in own
    ]


def _send_features(
    theirs: Sequence[torch.Tensor], like: torch.Tensor, moves: Moves, group: Any
) -> tuple[list[int], torch.Tensor]:
    """The features that other ranks have computed for this one, and the number of tokens of each piece. theirs: those
    that it has computed for them. like: of any piece, for a rank that has computed none."""
    tokens = torch.tensor(list(map(len, theirs)), dtype=torch.int64, device=like.device)
    own = send_rows(tokens, list(map(len, moves.taken)), list(map(len, moves.given)), group)
    to, fro = (
        [int(part.sum()) for part in numbers.split(list(map(len, places)))]
        for numbers, places in ((tokens, moves.taken), (own, moves.given))
    )
    return own.tolist(), exchange_rows(torch.cat([like[:0], *theirs]), to, fro, group)


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
