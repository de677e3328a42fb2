"""Builds timm networks, for several encoders."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

from torch import nn

from medvlm.core import published
from medvlm.core.arguments import refuse_unknown
from medvlm.core.weights import is_on_meta, read_file, without_file


def create(config: Any, needs_values: bool = False) -> nn.Module:
    """The timm network that `net`, `pretrained`, `weights` and `args` describe, without its head. needs_values: whether
    its weights must be read even if they could stay in their file."""
    import timm

    before = config.preprocess
    args = {**_size_args(config.net, before.size[-2:]), **config.args}
    building = nullcontext() if needs_values or config.pretrained else without_file(config)
    with building, refuse_unknown("model.encoders: args", config.args, lambda: _find_modules(config.net)):
        tower = timm.create_model(
            config.net,
            pretrained=config.pretrained and not is_on_meta(),
            num_classes=0,
            in_chans=before.channels,
            **args,
        )
    if config.pretrained:
        published.mark(tower)
    if config.weights:
        read_file(tower, config, "encoders")
    return tower


def _find_modules(net: str) -> list[ModuleType]:
    """The module with the class of a network of timm itself."""
    import timm

    return [sys.modules[timm.model_entrypoint(net).__module__]] if timm.is_model(net) else []


def _size_args(net: str, size: tuple[int, ...]) -> dict[str, Any]:
    """The argument that sets the input size of a network made for one size (ViT, Swin)."""
    import timm

    if not timm.is_model(net):
        return {}
    known = timm.get_pretrained_cfg(net)
    return {"img_size": size} if known.fixed_input_size and size != tuple(known.input_size[1:]) else {}
