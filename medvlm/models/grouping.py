"""The parts of a ready model as modules of their own."""

from __future__ import annotations

from typing import Any

from torch import nn


class ModuleGroup(nn.Module):
    """Groups modules of a larger model under one name. It has no forward: the larger model calls the modules."""

    config: Any
    generation_config: Any

    def get_output_embeddings(self) -> Any:
        """The head of a language model, which adapters leave alone; None in other parts."""
        return getattr(self, "lm_head", None)


def exclude(root: nn.Module, path: str, others: tuple[str, ...]) -> nn.Module:
    """The module at `path`, without those of its children that are in `others`."""
    module = root.get_submodule(path)
    inside = [other.removeprefix(f"{path}.") for other in others if other.startswith(f"{path}.")]
    if not inside:
        return module
    part = ModuleGroup()
    for name, child in module.named_children():
        if name not in inside:
            part.add_module(name, child)
    return part


def group_connector(root: nn.Module, paths: tuple[str, ...]) -> nn.Module:
    if len(paths) == 1 and "." not in paths[0]:
        return root.get_submodule(paths[0])
    part = ModuleGroup()
    for path in paths:
        parent, _, name = path.rpartition(".")
        found = getattr(root.get_submodule(parent), name)
        if isinstance(found, nn.Parameter):
            part.register_parameter(name, found)
        else:
            part.add_module(name, found)
    return part
