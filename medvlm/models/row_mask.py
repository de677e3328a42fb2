"""The structure of packed rows, as kernels for attention read it.

Axes: B rows, T tokens, N blocks of BLOCK tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, Self

import torch
from torch.nn.attention.flex_attention import BlockMask

from medvlm.models import masks
from medvlm.models.masks import MaskRule, evaluate, find_blocks

SHORT = 256
"""A document of so many tokens is computed at once, hidden pairs included: calls cost more than they save."""


@dataclass(frozen=True)
class Part:
    """Consecutive tokens that one call computes. size: their number. earlier: the numbers of the parts before it that
    it sees too. seen: bool [its tokens, all tokens that it is given]; None: each token sees those before it."""

    size: int
    earlier: tuple[int, ...] = ()
    seen: torch.Tensor | None = None


class RowMask(BlockMask):
    """The structure of a batch's rows, passed in the place of an attention mask. A BlockMask, because transformers'
    models pass one on to their layers as it is."""

    ndim = 4
    """As of a prepared mask, for models that look."""
    rule: MaskRule
    docs: torch.Tensor
    branches: torch.Tensor | None = None
    window: int | None
    ends: torch.Tensor | None = None
    """int32 [documents + 1]: where the documents begin in the flattened rows, and the number of tokens. Runs of padding
    count as documents. None: FlexAttention computes the rows."""
    longest: int = 0
    """Tokens of the longest document."""

    @classmethod
    def of_documents(
        cls, docs: torch.Tensor, window: int | None, rule: MaskRule, branches: torch.Tensor | None = None
    ) -> Self:
        """For kernels for documents of various lengths, which take no branches; and for `parts`, which do."""
        begins = torch.ones_like(docs, dtype=torch.bool)
        begins[:, 1:] = docs[:, 1:] != docs[:, :-1]
        last = torch.tensor([docs.numel()], device=docs.device)
        ends = torch.cat([begins.flatten().nonzero()[:, 0], last])
        none = torch.zeros(len(docs), 1, 1, dtype=torch.int32, device=docs.device)
        rows = cls._make(none, none[..., None], None, None, docs, window, rule)
        rows.ends, rows.longest, rows.branches = ends.int(), int(ends.diff().max()), branches
        return rows

    @classmethod
    def of_blocks(
        cls,
        docs: torch.Tensor,
        branches: torch.Tensor | None,
        positions: torch.Tensor,
        blocks: torch.Tensor | None,
        window: int | None,
        rule: MaskRule,
    ) -> Self:
        """For FlexAttention."""
        some_BNN, all_BNN = find_blocks(docs, branches, positions, blocks, window)
        return cls._make(*_list_blocks(some_BNN), *_list_blocks(all_BNN), docs, window, rule)

    @classmethod
    def _make(
        cls, counts: Any, indices: Any, full: Any, full_indices: Any, docs: Any, window: Any, rule: MaskRule
    ) -> Self:
        T = docs.shape[1]
        rows = cls.from_kv_blocks(counts, indices, full, full_indices, masks.BLOCK, rule, (T, T))
        rows.rule, rows.docs, rows.window = rule, docs, window
        return rows

    @cached_property
    def seen(self) -> torch.Tensor:
        """Who attends to whom as FlexAttention reads it, bool [B, T, T]: nothing in blocks that are not listed,
        everything in full ones, the rule in the others. For devices without its kernels."""
        some, every = (
            _spread(counts, indices, self.docs.shape[1])
            for counts, indices in (
                (self.kv_num_blocks, self.kv_indices),
                (self.full_kv_num_blocks, self.full_kv_indices),
            )
        )
        return (evaluate(self.rule, self.docs) & some) | every

    @cached_property
    def parts(self) -> list[Part]:
        """The documents in order, for devices without kernels. A long document with branches is several parts: each
        branch sees the prefix and itself, and what other branches hold is not computed."""
        T, found = self.docs.shape[1], list[Part]()
        ends = self.ends.tolist()  # type: ignore[union-attr]
        branches = [0] * ends[-1] if self.branches is None else self.branches.flatten().tolist()
        for begin, end in pairwise(ends):
            row, at = divmod(begin, T)
            runs = [(branch, len(list(run))) for branch, run in groupby(branches[begin:end])]
            if len(runs) > 1 and end - begin <= SHORT:
                found.append(Part(end - begin, (), self._evaluate(row, [(at, end - begin)])))
                continue
            done: list[tuple[int, int, int, int]] = []  # branch, number of the part, its first token and its size
            for branch, size in runs:
                before = [each for each in done if each[0] in (0, branch)]
                spans = [(first, count) for _, _, first, count in before] + [(at, size)]
                is_plain = not before and (self.window is None or size <= self.window)
                done.append((branch, len(found), at, size))
                found.append(
                    Part(size, tuple(each[1] for each in before), None if is_plain else self._evaluate(row, spans))
                )
                at += size
        return found

    def _evaluate(self, row: int, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
        """The rule for the tokens of the last span, as queries, and those of all spans. spans: first token of the row
        and number of tokens."""
        device = self.docs.device
        keys = torch.cat([torch.arange(first, first + count, device=device) for first, count in spans])
        return self.rule(torch.tensor(row, device=device), None, keys[-spans[-1][1] :, None], keys)

    @cached_property
    def share(self) -> float:
        """The share of all pairs of tokens that a kernel computes."""
        B, T = self.docs.shape
        if self.branches is not None and self.ends is not None:
            pairs = sum(p.size * (p.size + 1) / 2 if p.seen is None else p.seen.numel() for p in self.parts)
            return pairs / (B * T * T)
        if self.ends is not None:
            lengths = self.ends.diff().double()
            return float((lengths * (lengths + 1) / 2).sum()) / (B * T * T)
        listed = self.kv_num_blocks.sum() + self.full_kv_num_blocks.sum()  # type: ignore[union-attr]
        return min(1.0, float(listed) * masks.BLOCK**2 / (B * T * T))


def _list_blocks(is_listed_BNN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Number [B, 1, N] and indices [B, 1, N, N] of the blocks, the listed ones first."""
    listed = is_listed_BNN[:, None].int()
    return listed.sum(-1, dtype=torch.int32), listed.argsort(dim=-1, descending=True, stable=True).int()


def _spread(counts: Any, indices: Any, T: int) -> torch.Tensor:
    """The listed blocks as bool [B, T, T]."""
    N = indices.shape[-1]
    is_listed = torch.arange(N, device=counts.device) < counts[..., None]
    blocks = torch.zeros_like(is_listed).scatter(-1, indices.long(), is_listed)[:, 0]
    return blocks.repeat_interleave(masks.BLOCK, 1).repeat_interleave(masks.BLOCK, 2)[:, :T, :T]
