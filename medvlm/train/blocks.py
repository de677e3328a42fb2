"""The repeated blocks of a model, found by their shape: what is sharded as a unit, computed again in the backward pass,
or compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from medvlm.core.errors import RecipeError

Matches = Callable[[str, str], bool]


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers of towers and language models: the children of the outermost lists of modules of one class, which have
    modules of their own."""
    found: list[tuple[str, nn.Module]] = []

    def look(module: nn.Module, path: str) -> None:
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
                look(child, f"{path}{name}.")

    look(model, "")
    return found


def recompute(model: nn.Module, patterns: Sequence[str], matches: Matches) -> None:
    """Of these modules' blocks the backward pass keeps the inputs alone, and computes the rest again (arXiv
    1604.06174)."""
    for block in _chosen(model, patterns, matches, "recompute"):
        block.forward = _recomputed(block.forward)


def compile_blocks(model: nn.Module, patterns: Sequence[str], matches: Matches) -> None:
    """torch.compile for each block of these modules: blocks of one class share what is compiled, so that the start is
    short."""
    for block in _chosen(model, patterns, matches, "compile"):
        # The forward alone, so that the hooks of an engine stay outside and names in checkpoints stay as they are.
        block.forward = torch.compile(block.forward)


def _chosen(model: nn.Module, patterns: Sequence[str], matches: Matches, line: str) -> list[nn.Module]:
    known, names = blocks(model), [n for n, _ in model.named_parameters()]
    for pattern in patterns:
        # A stage may be without the module: the line is for all stages of a recipe.
        if any(matches(n, pattern) for n in names) and not any(matches(n, pattern) for n, _ in known):
            raise RecipeError(
                f"engine.{line}: {pattern!r} has no repeated blocks (in this model:"
                f" {', '.join(_lists(known)) or 'none'}); leave it out"
            )
    return [block for name, block in known if any(matches(name, pattern) for pattern in patterns)]


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(*args: Any, **kwargs: Any) -> Any:
        return (
            checkpoint(forward, *args, use_reentrant=False, **kwargs)
            if torch.is_grad_enabled()
            else forward(*args, **kwargs)
        )

    return again


def _is_composed(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _lists(known: Sequence[tuple[str, nn.Module]]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name, _ in known})
