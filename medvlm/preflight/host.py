"""Estimates the memory of a node (of its CPUs, not its GPUs) under each engine: what ranks hold while a model is built
and sharded, and what is offloaded to it. Files that are read lie in the page cache, which is not counted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from medvlm.core.blocks import find_blocks
from medvlm.core.config import component
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
MUCH = GIB // 20
"""Bytes of a module that are worth a note."""
READS_SHARDS = ("fsdp2", "zero3")
SHARED = ("weights", "gradients", "optimiser")


@dataclass(frozen=True)
class Building:
    """Bytes in float32, in which models are built. whole: of the model. own: module -> what a rank makes or reads whole
    although the engine shards it. outside, block: of published weights, those outside of all blocks without large
    tables, and those of the largest block. largest: of one weight."""

    whole: float
    own: dict[str, float]
    outside: float
    block: float
    largest: float


def measure_building(model: nn.Module, published: Collection[str], why_whole: str) -> Building:
    """published: modules whose weights are read from published files. why_whole: why all of them are needed before they
    are sharded, or ""."""
    whole, named = sum(map(_bytes, model.parameters())), dict(model.named_parameters())
    is_whole = bool(why_whole) or any(is_quantized(module) for module in model.modules())
    stored = {id(p) for n, p in named.items() if not is_whole and module_of(n) in published and group_of(n) != "lora"}
    own: dict[str, float] = {}
    for name, parameter in named.items():
        if id(parameter) not in stored:
            own[module_of(name)] = own.get(module_of(name), 0) + _bytes(parameter)
    blocks = [[p for p in block.parameters() if id(p) in stored] for _, block in find_blocks(model)]
    inside = {id(p) for block in blocks for p in block}
    return Building(
        whole,
        own,
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
            built = sum(building.own.values()) + (max(most, building.largest) if kind == "zero3" else most)
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


def explain_own(building: Building, kind: str, why_whole: str) -> tuple[str, ...]:
    """What every rank holds whole although the engine `kind` shards it, if that is much."""
    if kind not in READS_SHARDS:
        return ()
    parts = [f"{module} ({size / GIB:.1f} GiB)" for module, size in building.own.items() if size >= MUCH]
    why = f" because {why_whole}" if why_whole else ""
    return (f"every rank holds whole until they are sharded{why}: {', '.join(parts)}",) if parts else ()


def list_published(recipe: Recipe) -> frozenset[str]:
    """The modules whose weights stay in the files of published models until they are sharded."""
    model = recipe.model
    if model.pretrained:
        return frozenset({f"encoders.{IMAGE}", f"connectors.{IMAGE}", "language", "unread"})
    texts = [text for stage in recipe.stages for text in stage.list_text_towers().values()]
    found = {
        f"encoders.{name}"
        for name, encoder in model.encoders.items()
        if _stays_in_files(encoder) and not getattr(component("encoders", encoder.kind), "NEEDS_VALUES", False)
    }
    found |= {f"connectors.{name}" for name, e in model.encoders.items() if _stays_in_files(e.connector)}
    found |= {"language"} if _stays_in_files(model.language) else set()
    return frozenset(found | ({"text"} if any(map(_stays_in_files, texts)) else set()))


def _stays_in_files(config: Any) -> bool:
    """Whether a part reads a model of transformers, or a file of which no weight may start fresh."""
    known: dict[str, Any] = {} if config is None else config.model_dump()
    is_file = bool(known.get("weights")) and not known.get("allow_missing") and not known.get("pretrained")
    return bool(known.get("model")) or is_file
