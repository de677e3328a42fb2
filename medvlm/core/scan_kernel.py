"""The CUDA kernel of the selective scan, of the package mamba-ssm (state-spaces/mamba, `selective_scan_fn` of
ops/selective_scan_interface.py). Not run here: there was no GPU. Its layout is checked with what it documents."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch

Kernel = Callable[..., Any]


def choose_kernel(x: torch.Tensor) -> Kernel | None:
    """The kernel for a tensor on a GPU, if it is installed. It has no float64."""
    return find_kernel() if x.is_cuda and x.dtype != torch.float64 else None


@cache
def find_kernel() -> Kernel | None:
    try:
        module = import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError:
        return None
    found: Kernel = module.selective_scan_fn
    return found


def scan_by(
    kernel: Kernel,
    x_NLI: torch.Tensor,
    step_NLI: torch.Tensor,
    decay_IS: torch.Tensor,
    into_NLS: torch.Tensor,
    out_NLS: torch.Tensor,
    skip_I: torch.Tensor,
) -> torch.Tensor:
    """The scan [N, L, I] in the layout of the kernel, channels before tokens, in float32."""
    x, step, into, out = (each.float().transpose(1, 2).contiguous() for each in (x_NLI, step_NLI, into_NLS, out_NLS))
    read_NIL: torch.Tensor = kernel(x, step, decay_IS.float(), into, out, skip_I.float())
    return read_NIL.transpose(1, 2).to(x_NLI.dtype)
