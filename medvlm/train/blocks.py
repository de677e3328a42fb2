"""Finds the repeated blocks of a model, the units of sharding, activation recomputation and compilation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from medvlm.core.errors import RecipeError

Matches = Callable[[str, str], bool]


def find_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of towers and language models, by name.

    These are the children of the outermost ModuleLists and Sequentials whose children are all of one class and have
    children and parameters themselves."""
    found: list[tuple[str, nn.Module]] = []

    def search(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            layers = list(child.children())
            if (
                isinstance(child, nn.ModuleList | nn.Sequential)
                and layers
                and len({type(m) for m in layers}) == 1
                and all(_is_composed(m) for m in layers)
            ):
                found.extend((f"{path}{name}.{i}", layer) for i, layer in child.named_children())
            else:
                search(child, f"{path}{name}.")

    search(model, "")
    return found


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


def _is_composed(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _name_lists(known: Sequence[tuple[str, nn.Module]]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name, _ in known})
