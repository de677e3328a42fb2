"""The output of a decoder that gives a set of masks, as one tensor: what each query tells of its class, and its mask.

Axes: N samples, Q queries, C classes, then what is none of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class MaskSet(NamedTuple):
    """told: logits of classes and of nothing [..., Q, C + 1]. masks: logits [..., Q, h, w]. size: of the input, (H,
    W)."""

    told: torch.Tensor
    masks: torch.Tensor
    size: tuple[int, int]


def pack(told_NQC: torch.Tensor, masks_NQ: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """[N, Q, C + 1 + h x w + 4]. The last four numbers are h, w and the size, exact in no 16 bits."""
    exact = torch.promote_types(told_NQC.dtype, torch.float32)
    numbers = torch.tensor([*masks_NQ.shape[2:], *size], device=told_NQC.device, dtype=exact)
    return torch.cat([told_NQC, masks_NQ.flatten(2), numbers.expand(*told_NQC.shape[:2], 4)], 2)


def unpack(packed: torch.Tensor, classes: int) -> MaskSet:
    """The inverse of pack(), of [..., Q, C + 1 + h x w + 4]."""
    numbers = packed.detach().reshape(-1, packed.shape[-1])[0, -4:]
    height, width, *size = (int(number) for number in numbers.tolist())
    told, masks = packed[..., : classes + 1], packed[..., classes + 1 : -4]
    return MaskSet(told, masks.unflatten(-1, (height, width)), (size[0], size[1]))
