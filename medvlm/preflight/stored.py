"""What a checkpoint of a stage holds of its model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from medvlm.core.published import list_published
from medvlm.core.stage_config import Merge
from medvlm.models.parts import matches
from medvlm.recipe.graph import find_adapters, find_outside_origins, find_start_stages
from medvlm.recipe.origins import FilesOrigin
from medvlm.recipe.schema import Recipe


def count_stored(model: nn.Module, recipe: Recipe, number: int) -> tuple[int, int]:
    """Bytes of the tensors of the model in a checkpoint of stage `number`, tied ones twice, and bytes of those that it
    leaves out, because they are as published. model: on the meta device, with adapters, in the precision of
    training."""
    changed = list(_list_changed(recipe, number))
    left_out = {
        name: tensor
        for name, tensor in list_published(model).items()
        if not tensor.requires_grad
        and not any(matches(name.replace(".base_layer.", "."), pattern) for pattern in changed)
    }
    stored = [tensor for name, tensor in model.state_dict().items() if name not in left_out]
    return _count_bytes(stored), _count_bytes({id(tensor): tensor for tensor in left_out.values()}.values())


def _count_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _list_changed(recipe: Recipe, number: int) -> Iterator[str]:
    """Patterns of what this stage and those before it change: what they train, what adapters are merged into, and what
    comes from other files."""
    config = recipe.stages[number]
    yield from (pattern for pattern in config.trains if pattern.split(".")[0] != "lora")
    if config.lora and config.lora.start == "pissa":
        yield from config.lora.targets
    for origin in find_outside_origins(recipe, number).values():
        if isinstance(origin, FilesOrigin):
            yield origin.module or "*"
    own = None if isinstance(config.from_, Merge) else find_adapters(recipe, number)
    for earlier in find_start_stages(recipe, number):
        before = find_adapters(recipe, earlier)
        if before and before != own and not before.name:
            yield from before.targets
        yield from _list_changed(recipe, earlier)
