"""What a checkpoint of a stage holds of its model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from medvlm.core.published import list_published
from medvlm.models.parts import matches
from medvlm.recipe.graph import find_outside_origins, find_start_stages
from medvlm.recipe.origins import FilesOrigin
from medvlm.recipe.schema import Recipe


def count_left_out(model: nn.Module, recipe: Recipe, number: int) -> int:
    """Bytes of the tensors that checkpoints of stage `number` leave out, because they are as published. model: on the
    meta device, with adapters, in the precision of training."""
    changed = list(_list_changed(recipe, number))
    left_out = [
        tensor
        for name, tensor in list_published(model).items()
        if not tensor.requires_grad
        and not any(matches(name.replace(".base_layer.", "."), pattern) for pattern in changed)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in left_out)


def _list_changed(recipe: Recipe, number: int) -> Iterator[str]:
    """Patterns of what this stage and those before it change: what they train, what adapters are merged into, and what
    comes from other files."""
    config = recipe.stages[number]
    yield from (pattern for pattern in config.trains if pattern.split(".")[0] != "lora")
    if config.lora and config.lora.start == "pissa":
        yield from config.lora.targets
    for module, origin in find_outside_origins(recipe, number).items():
        if isinstance(origin, FilesOrigin):
            yield module or "*"
    for earlier in find_start_stages(recipe, number):
        before = recipe.stages[earlier].lora
        if config.lora and before and config.lora != before:
            yield from before.targets
        yield from _list_changed(recipe, earlier)
