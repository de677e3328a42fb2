"""Finds the repeated blocks of a model: the units of sharding, activation recomputation, compilation and reading."""

from __future__ import annotations

from torch import nn


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


def _is_composed(module: nn.Module) -> bool:
    """A list of layers is none: it has no forward (stages of Florence-2's tower)."""
    is_list = isinstance(module, nn.ModuleList)
    return not is_list and any(True for _ in module.children()) and any(True for _ in module.parameters())
