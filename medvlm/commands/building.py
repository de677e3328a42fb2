"""Builds the model of a stage and gives it the weights that it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from medvlm.commands.initial_weights import Starts, put_start
from medvlm.core.config import component
from medvlm.core.deferred import count_held, deferring, fill, list_deferred
from medvlm.core.lora_config import Lora
from medvlm.core.published import Prints, Published
from medvlm.core.stage_config import StageConfig
from medvlm.models.parts import module_of
from medvlm.recipe.graph import explain_whole
from medvlm.stages._base import Setup
from medvlm.train.average import make_models

GIB = 1 << 30
MUCH = GIB // 20
"""Bytes of a module that are worth a message."""


@dataclass(frozen=True)
class Began:
    """What a stage begins with. started: module -> the origin of its weights. unchanged: fingerprints of the tensors
    that are as published."""

    started: dict[str, str]
    adapters: Lora | None
    unchanged: Prints


def build_stage(config: StageConfig, setup: Setup, starts: Starts) -> tuple[Any, Began]:
    """If the engine shards weights, they stay in their files and checkpoints until it does so, where that is possible;
    what every rank reads whole is said."""
    if not setup.engine.is_sharded or (why := explain_whole(config)):
        if setup.engine.is_sharded and setup.engine.is_first:
            print(f"stage {config.name}: every rank reads the model whole: {why}", flush=True)
        return _build(config, setup, starts)
    with deferring() as said:
        built = _build(config, setup, starts)
    if setup.engine.is_first:
        for line in (*said, *_list_whole(built[0].model)):
            print(f"stage {config.name}: {line}", flush=True)
    return built


def _list_whole(model: nn.Module) -> list[str]:
    """What every rank holds whole until the engine shards it, if that is much."""
    held = {module: size / GIB for module, size in count_held(model, module_of).items() if size >= MUCH}
    parts = [f"{module} ({size:.1f} GiB)" for module, size in held.items()]
    return [f"every rank holds whole until they are sharded: {', '.join(parts)}"] if parts else []


def _build(config: StageConfig, setup: Setup, starts: Starts) -> tuple[Any, Began]:
    stage = component("stages", config.kind).build(config, setup)
    config = stage.count_steps()
    published = Published(stage.model, lambda name: any(stage.matches(name, each) for each in config.trains))
    started, adapters = put_start(stage.model, config, starts, setup.seed)
    return stage, Began(started, adapters, published.find_unchanged(stage.model))


def make_extra_models(stage: Any) -> dict[str, nn.Module]:
    """The extra models of a stage, with values."""
    extra = make_models(stage)
    if extra and list_deferred(stage.model):  # a copy of a deferred weight has no values
        fill(stage.model)
        extra = make_models(stage)
    return extra
