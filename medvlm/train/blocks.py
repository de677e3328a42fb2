"""Recomputes or compiles the blocks of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from medvlm.core.blocks import find_blocks
from medvlm.core.errors import RecipeError

Matches = Callable[[str, str], bool]


def recompute(model: nn.Module, patterns: Sequence[str], matches: Matches) -> None:
    """Activation checkpointing (arXiv 1604.06174): the blocks of these modules keep only their inputs and are computed
    again in the backward pass."""
    for block in _select_blocks(model, patterns, matches, "recompute"):
        block.forward = _add_recompute(block.forward)


def compile_blocks(model: nn.Module, patterns: Sequence[str], matches: Matches) -> None:
    """Compiles each block of these modules by torch.compile. Blocks of one class share the compiled code, which
    shortens the start."""
    for block in _select_blocks(model, patterns, matches, "compile"):
        # Only the forward, so that hooks of engines stay outside and names in checkpoints do not change.
        block.forward = torch.compile(block.forward)


def _select_blocks(model: nn.Module, patterns: Sequence[str], matches: Matches, line: str) -> list[nn.Module]:
    known, names = find_blocks(model), [n for n, _ in model.named_parameters()]
    for pattern in patterns:
        # No error if the stage has no such module: the setting applies to all stages of a recipe.
        if any(matches(n, pattern) for n in names) and not any(matches(n, pattern) for n, _ in known):
            raise RecipeError(
                f"engine.{line}: {pattern!r} has no repeated blocks (in this model:"
                f" {', '.join(_name_lists(known)) or 'none'}); leave it out"
            )
    return [block for name, block in known if any(matches(name, pattern) for pattern in patterns)]


def _add_recompute(forward: Callable[..., Any]) -> Callable[..., Any]:
    def forward_again(*args: Any, **kwargs: Any) -> Any:
        return (
            checkpoint(forward, *args, use_reentrant=False, **kwargs)
            if torch.is_grad_enabled()
            else forward(*args, **kwargs)
        )

    return forward_again


def _name_lists(known: Sequence[tuple[str, nn.Module]]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name, _ in known})
