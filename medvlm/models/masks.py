"""Who attends to whom in rows of several texts.

Axes: B rows, T tokens, N blocks of BLOCK tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

BLOCK = 128
"""Tokens of a block. FlexAttention skips blocks of queries and keys that do not see each other."""
FAR = 1 << 40
"""Larger than every number of a document, branch or position."""

MaskRule = Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""(row, head, query, key) as indices -> whether the query attends to the key: a mask_mod of FlexAttention."""


def make_rule(
    docs: torch.Tensor,
    branches: torch.Tensor | None,
    positions: torch.Tensor,
    blocks: torch.Tensor | None,
    window: int | None,
) -> MaskRule:
    """All tensors are [B, T]. What is None is left out of the kernels that are compiled from the rule."""

    def rule(b: Any, _: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        doc = docs[b, k]
        sees = (docs[b, q] == doc) & (doc >= 0) & (q >= k)
        if branches is not None:
            branch = branches[b, k]
            sees = sees & ((branch == 0) | (branches[b, q] == branch))
        if window is not None:
            sees = sees & (positions[b, q] - positions[b, k] < window)
        if blocks is not None:
            block = blocks[b, k]
            sees = sees | ((block >= 0) & (blocks[b, q] == block))
        return sees | (q == k)

    return rule


def evaluate(rule: MaskRule, docs: torch.Tensor) -> torch.Tensor:
    """The rule for all pairs, bool [B, T, T]."""
    b, t = (torch.arange(n, device=docs.device) for n in docs.shape)
    return rule(b[:, None, None], None, t[:, None], t)


def find_blocks(
    docs: torch.Tensor,
    branches: torch.Tensor | None,
    positions: torch.Tensor,
    blocks: torch.Tensor | None,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [B, N, N] each: blocks of queries and keys of which some pairs may see each other, and those where all do.

    From the smallest and largest document, branch and position of each block, without a [T, T] tensor and without
    waiting for the device. Of the first kind, a few blocks may hold no pair: they cost time, and the rule decides."""
    is_real = docs >= 0
    branches = torch.zeros_like(docs) if branches is None else branches
    segments = docs * (branches.max() + 1) + branches
    doc, segment, position = (_Span(x, is_real) for x in (docs, segments, positions))
    branch = _Span(branches, is_real)
    N = doc.low.shape[1]
    number = torch.arange(N, device=docs.device)
    is_before = number[:, None] > number
    shares = doc.overlaps() & (segment.overlaps() | (branch.low == 0)[:, None, :])
    some = shares & (is_before | (number[:, None] == number))
    is_one_doc = doc.is_one() & doc.is_one().mT & (doc.low[:, :, None] == doc.low[:, None, :])
    is_one_segment = segment.is_one() & segment.is_one().mT & (segment.low[:, :, None] == segment.low[:, None, :])
    every = is_before & is_one_doc & ((branch.high == 0)[:, None, :] | is_one_segment)
    if window is not None:
        some = some & (position.low[:, :, None] - position.high[:, None, :] < window)
        every = every & (position.high[:, :, None] - position.low[:, None, :] < window)
    if blocks is not None:
        block = _Span(blocks, blocks >= 0)
        some = some | block.overlaps()
        every = every | (block.is_one() & block.is_one().mT & (block.low[:, :, None] == block.low[:, None, :]))
    some = some | (number[:, None] == number)  # every token attends to itself
    return some & ~every, every


class _Span:
    """The smallest and largest number of each block of tokens, [B, N], of those tokens that count."""

    def __init__(self, x: torch.Tensor, counts: torch.Tensor):
        T = x.shape[1]
        missing = -T % BLOCK
        x = torch.nn.functional.pad(x, (0, missing))
        counts = torch.nn.functional.pad(counts, (0, missing)).unflatten(1, (-1, BLOCK))
        x = x.unflatten(1, (-1, BLOCK))
        self.low = x.masked_fill(~counts, FAR).amin(2)
        self.high = x.masked_fill(~counts, -FAR).amax(2)
        self.is_whole = counts.all(2)

    def overlaps(self) -> torch.Tensor:
        """[B, N of queries, N of keys]."""
        return (self.low[:, :, None] <= self.high[:, None, :]) & (self.low[:, None, :] <= self.high[:, :, None])

    def is_one(self) -> torch.Tensor:
        """[B, N, 1]: whether all tokens of the block count and have one number."""
        return (self.is_whole & (self.low == self.high))[:, :, None]
