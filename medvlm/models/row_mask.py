"""The structure of packed rows, as kernels for attention read it.

Axes: B rows, T tokens, N blocks of BLOCK tokens.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

import torch
from torch.nn.attention.flex_attention import BlockMask

from medvlm.models import masks
from medvlm.models.masks import MaskRule, evaluate, find_blocks


class RowMask(BlockMask):
    """The structure of a batch's rows, passed in the place of an attention mask. A BlockMask, because transformers'
    models pass one on to their layers as it is."""

    ndim = 4
    """As of a prepared mask, for models that look."""
    rule: MaskRule
    docs: torch.Tensor
    window: int | None
    ends: torch.Tensor | None = None
    """int32 [documents + 1]: where the documents begin in the flattened rows, and the number of tokens. Only if the
    rows hold plain documents; runs of padding count as documents. None: FlexAttention computes the rows."""
    longest: int = 0
    """Tokens of the longest document."""

    @classmethod
    def of_documents(cls, docs: torch.Tensor, window: int | None, rule: MaskRule) -> Self:
        """For kernels for documents of various lengths."""
        begins = torch.ones_like(docs, dtype=torch.bool)
        begins[:, 1:] = docs[:, 1:] != docs[:, :-1]
        last = torch.tensor([docs.numel()], device=docs.device)
        ends = torch.cat([begins.flatten().nonzero()[:, 0], last])
        none = torch.zeros(len(docs), 1, 1, dtype=torch.int32, device=docs.device)
        rows = cls._make(none, none[..., None], None, None, docs, window, rule)
        rows.ends, rows.longest = ends.int(), int(ends.diff().max())
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
    def share(self) -> float:
        """The share of all pairs of tokens that a kernel computes."""
        B, T = self.docs.shape
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
