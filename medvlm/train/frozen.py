"""Frozen weights in mixed precision."""

from __future__ import annotations

import torch
from torch import nn


def hold_in_bfloat16(model: nn.Module) -> None:
    """Converts float32 weights that are not trained, in place: autocast would cast them at every use.

    Matrices, kernels and tables only. Vectors (norms, biases) are few, and normalisation on a CPU takes no float32
    input with bfloat16 weights."""
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dtype == torch.float32 and parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16)
