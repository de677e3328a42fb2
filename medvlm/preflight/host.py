"""Estimates the memory of a node (of its CPUs, not its GPUs) under each engine: what ranks hold while a model is built
and sharded, and what is offloaded to it. Files that are read lie in the page cache, which is not counted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from medvlm.core.blocks import find_blocks
from medvlm.core.deferred import TABLE_ROWS
from medvlm.core.engine_config import EngineConfig
from medvlm.core.families import IMAGE
from medvlm.core.quantize import is_quantized
from medvlm.models.parts import group_of, module_of
from medvlm.preflight.gpus import GIB, Machines
from medvlm.preflight.memory import Weights, estimate_memory
from medvlm.preflight.simulate import Step
from medvlm.recipe.schema import Recipe

LIBRARIES = 1.0 * GIB
"""Of a process that trains: torch, transformers, data of the loader (measured by benchmarks/host_memory.py)."""
READS_SHARDS = ("fsdp2", "zero3")
SHARED = ("weights", "gradients", "optimiser")


@dataclass(frozen=True)
class Building:
    """Bytes in float32, in which models are built. whole: of the model. own: what a rank makes or reads whole although
    the engine shards it. outside, block: of published weights, those outside of all blocks without large tables, and
    those of the largest block. largest: of one weight."""

    whole: float
    own: float
    outside: float
    block: float
    largest: float


def measure_building(model: nn.Module, published: Collection[str], why_whole: str) -> Building:
    """published: modules whose weights are read from published files. why_whole: why all of them are needed before they
    are sharded, or ""."""
    whole = sum(map(_bytes, model.parameters()))
    if why_whole or any(is_quantized(module) for module in model.modules()):
        return Building(whole, whole, 0, 0, 0)
    named = dict(model.named_parameters())
    stored = {id(p) for n, p in named.items() if module_of(n) in published and group_of(n) != "lora"}
    blocks = [[p for p in block.parameters() if id(p) in stored] for _, block in find_blocks(model)]
    inside = {id(p) for block in blocks for p in block}
    return Building(
        whole,
        sum(_bytes(p) for p in named.values() if id(p) not in stored),
        sum(
            _bytes(p) for p in named.values() if id(p) in stored - inside and not (p.ndim == 2 and len(p) > TABLE_ROWS)
        ),
        max((sum(map(_bytes, block)) for block in blocks), default=0),
        max((_bytes(p) for p in named.values() if id(p) in stored), default=0),
    )


def _bytes(parameter: nn.Parameter) -> float:
    return parameter.numel() * (4 if parameter.is_floating_point() else parameter.element_size())


def estimate_hosts(
    building: Building,
    step: Step,
    weights: Weights,
    engine: EngineConfig,
    kinds: Sequence[str],
    machines: Machines | None,
    checkpoint: float,
) -> dict[str, dict[str, float]]:
    """Engine -> GiB of the host's memory that a rank (`rank`) and all ranks of a node (`node`) need at their peak.

    kinds: of engines, that of the recipe first. checkpoint: bytes of one, which is copied before training goes on: by
    every rank under DDP, in shares under the other engines."""
    world, per_node = (machines.world, machines.per_node) if machines else (1, 1)
    found: dict[str, dict[str, float]] = {}
    for kind in kinds:
        built = building.whole
        if kind in READS_SHARDS:
            # Before it is sharded, a model is checked with one block in memory; ZeRO-3 divides weight by weight.
            most = building.outside + building.block
            built = building.own + (max(most, building.largest) if kind == "zero3" else most)
        offloaded = 0.0
        if engine.offload and kind == kinds[0]:
            kept, left = (
                estimate_memory(step, weights, kind, engine.precision, world, offload=offload).parts
                for offload in (False, True)
            )
            offloaded = sum(kept.get(part, 0.0) - left.get(part, 0.0) for part in SHARED)
        copied = checkpoint / (1 if kind in ("single", "ddp") else world)
        rank = (LIBRARIES + max(built, offloaded + copied)) / GIB
        found[kind] = {"rank": round(rank, 3), "node": round(rank * per_node, 3)}
    return found


def list_published(recipe: Recipe) -> frozenset[str]:
    """The modules whose weights a recipe reads from the files of published models of transformers."""
    model = recipe.model
    if model.pretrained:
        return frozenset({f"encoders.{IMAGE}", f"connectors.{IMAGE}", "language", "unread"})
    texts = [text for stage in recipe.stages for text in stage.list_text_towers().values()]
    found = {f"encoders.{name}" for name, encoder in model.encoders.items() if _names_model(encoder)}
    found |= {"language"} if _names_model(model.language) else set()
    return frozenset(found | ({"text"} if any(map(_names_model, texts)) else set()))


def _names_model(config: Any) -> bool:
    return config is not None and bool(config.model_dump().get("model"))
