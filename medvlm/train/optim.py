"""The optimiser over parameter groups, and the learning rate as a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from medvlm.core.contracts import Optim
from medvlm.core.errors import RecipeError
from medvlm.train.muon import Muon, hidden_matrices

Matches = Callable[[str, str], bool]


def make_optimizer(model: nn.Module, config: Optim, matches: Matches, stage: str) -> torch.optim.Optimizer:
    """Vectors and scalars (biases, norms, scales) get no weight decay. Raises RecipeError for an `lr_of` that matches nothing trained."""
    matrices = {id(p) for p in hidden_matrices(model)} if config.kind == "muon" else set()
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    for pattern in config.lr_of:
        if not any(matches(name, pattern) for name, _ in trained):
            raise RecipeError(f"stages.{stage}.optim.lr_of: {pattern!r} matches no trained parameter")
    for name, parameter in trained:
        factor = next((f for pattern, f in config.lr_of.items() if matches(name, pattern)), 1.0)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        # An adapter's two factors are one matrix only together: they stay with AdamW.
        orthogonal = id(parameter) in matrices and not matches(name, "lora")
        groups.setdefault((factor, decay, orthogonal), []).append(parameter)
    options = [{"params": p, "weight_decay": decay, "factor": factor, "orthogonal": turned} for (factor, decay, turned), p in groups.items()]
    return {"adamw": torch.optim.AdamW, "muon": Muon}[config.kind](options, lr=config.lr, betas=config.betas)


def set_rate(optimizer: torch.optim.Optimizer, config: Optim, step: int, steps: int) -> float:
    """Sets every group's rate for `step` (from 0) and returns the base rate."""
    rate = config.lr * rate_factor(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def rate_factor(config: Optim, step: int, steps: int) -> float:
    """Linear warm-up, then constant, linear to 0, or half a cosine to 0 (SGDR, arXiv 1608.03983, equation 5)."""
    warmup = math.ceil(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[config.schedule]
