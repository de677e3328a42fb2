"""The selective scan of Mamba (arXiv 2312.00752), in plain torch; on a GPU by the kernel of mamba-ssm, where that is
installed (scan_kernel.py).

Axes: N inputs, L tokens, I inner width, S states of a channel.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from medvlm.core.scan_kernel import choose_kernel, scan_by

CHUNK = 32
"""Tokens that are scanned at once. Memory of the backward pass grows with its logarithm."""
STEPS = (0.001, 0.1)
"""Range of the first step sizes, section 3.6 of Mamba."""


class Direction(nn.Module):
    """One reading of a sequence [N, L, I]: convolution, and a scan whose steps and matrices depend on the token."""

    def __init__(self, inner: int, width: int, states: int, convolution: int, recompute: bool = False):
        """width: of the layer around it, which decides the rank of the step sizes. states: of each channel.
        convolution: tokens that the convolution before the scan sees. recompute: the backward pass scans again, so that
        long sequences keep no states."""
        super().__init__()
        self.states, self.rank, self.recompute = states, max(1, math.ceil(width / 16)), recompute
        self.convolution = nn.Conv1d(inner, inner, convolution, groups=inner, padding=convolution - 1)
        self.select = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.steps = nn.Linear(self.rank, inner)
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        low, high = map(math.log, STEPS)
        first = torch.exp(torch.rand(inner) * (high - low) + low)
        nn.init.uniform_(self.steps.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.steps.bias.copy_(first + torch.log(-torch.expm1(-first)))  # softplus gives `first`

    def forward(self, x_NLI: torch.Tensor) -> torch.Tensor:
        seen_NLI = self.convolution(x_NLI.transpose(1, 2))[..., : x_NLI.shape[1]].transpose(1, 2)
        seen_NLI = nn.functional.silu(seen_NLI)
        low, into_NLS, out_NLS = self.select(seen_NLI).split((self.rank, self.states, self.states), -1)
        step_NLI = softplus(self.steps(low))
        decay_IS = -self.log_decay.exp()
        return scan(seen_NLI, step_NLI, decay_IS, into_NLS, out_NLS, self.skip, self.recompute)


def scan(
    x_NLI: torch.Tensor,
    step_NLI: torch.Tensor,
    decay_IS: torch.Tensor,
    into_NLS: torch.Tensor,
    out_NLS: torch.Tensor,
    skip_I: torch.Tensor,
    recompute: bool = False,
) -> torch.Tensor:
    """The selective scan [N, L, I] (Mamba, equation 2 and algorithm 2): h_t = exp(step decay) h_t-1 + step into_t x_t,
    y_t = out_t h_t + skip x_t. Computed in float32 at least."""
    if (kernel := choose_kernel(x_NLI)) is not None:
        return scan_by(kernel, x_NLI, step_NLI, decay_IS, into_NLS, out_NLS, skip_I)
    kind = torch.promote_types(x_NLI.dtype, torch.float32)
    x, step, into, out = (each.to(kind) for each in (x_NLI, step_NLI, into_NLS, out_NLS))
    decay = decay_IS.to(kind)
    carried = x.new_zeros(len(x), x.shape[2], decay.shape[1])
    read = []
    for start in range(0, x.shape[1], CHUNK):
        parts = *(each[:, start : start + CHUNK] for each in (x, step, into, out)), decay, carried
        if recompute and torch.is_grad_enabled():
            found, carried = checkpoint(_scan_chunk, *parts, use_reentrant=False)
        else:
            found, carried = _scan_chunk(*parts)
        read.append(found)
    return (torch.cat(read, 1) + x * skip_I.to(kind)).to(x_NLI.dtype)


def _scan_chunk(
    x: torch.Tensor,
    step: torch.Tensor,
    into: torch.Tensor,
    out: torch.Tensor,
    decay_IS: torch.Tensor,
    carried_NIS: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What some tokens read, and the states after the last of them."""
    kept, added = _accumulate(torch.exp(step[..., None] * decay_IS), (step * x)[..., None] * into[:, :, None])
    states = added + kept * carried_NIS[:, None]
    return (states * out[:, :, None]).sum(-1), states[:, -1]


def _accumulate(kept: torch.Tensor, added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of all factors up to each token, and the states from zero, [N, L, I, S], in log2(L) rounds."""
    reach = 1
    while reach < kept.shape[1]:
        added = torch.cat([added[:, :reach], added[:, reach:] + kept[:, reach:] * added[:, :-reach]], 1)
        kept = torch.cat([kept[:, :reach], kept[:, reach:] * kept[:, :-reach]], 1)
        reach *= 2
    return kept, added
