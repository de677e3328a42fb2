"""Tensors of different sizes in one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad


def pad_and_join(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenated along the first axis, padded with zeros where their other axes differ."""
    largest = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [
            n for axis, size in reversed(list(zip(tensor.shape[1:], largest, strict=True))) for n in (0, size - axis)
        ]
        padded.append(pad(tensor, missing) if any(missing) else tensor)
    return torch.cat(padded)
