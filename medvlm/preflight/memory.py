"""Bytes of one GPU by part, for every engine, from what a step of one process holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from medvlm.models.parts import module_of
from medvlm.preflight.precision import COPIES
from medvlm.preflight.simulate import Step, stacks_of

ENGINES = ("single", "ddp", "fsdp2", "zero1", "zero2", "zero3")
ZERO_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces or gathers at once, at most."""
BATCH_PARTS = ("language", "text", "vision", "logits", "work")
"""Parts that shrink with the micro-batch."""


@dataclass(frozen=True)
class Weights:
    """Elements and bytes of a model's parameters and buffers in the precision it trains in. unit: the largest block that is gathered at once."""

    trained: int
    trained_bytes: int
    frozen_bytes: int
    unit: int
    unit_trained: int


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the worst moment of a step, by part."""

    engine: str
    recompute: bool
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def weights_of(model: nn.Module) -> Weights:
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [t for t in (*model.parameters(), *model.buffers()) if not t.requires_grad]
    blocks = [layer for stack in stacks_of(model).values() for layer in stack] or [model]
    stacked = {id(p) for block in blocks for p in block.parameters()}
    root = sum(p.numel() for p in model.parameters() if id(p) not in stacked)
    return Weights(
        sum(p.numel() for p in trained), sum(p.numel() * p.element_size() for p in trained), sum(t.numel() * t.element_size() for t in frozen),
        max([root, *(sum(p.numel() for p in block.parameters()) for block in blocks)]),
        max(sum(p.numel() for p in block.parameters() if p.requires_grad) for block in blocks),
    )  # fmt: skip


def memory(step: Step, weights: Weights, engine: str, precision: str, world: int, recompute: bool = False, share: float = 1.0) -> Memory:
    """share: of the micro-batch that was simulated; what depends on it is taken to be proportional."""
    worst = max((_section(step, weights, engine, precision, world, name, recompute, share) for name in step.sections), key=lambda parts: sum(parts.values()))
    return Memory(engine, recompute, worst)


def _section(
    step: Step, weights: Weights, engine: str, precision: str, world: int, name: str, recompute: bool, share: float
) -> dict[str, float]:
    parts = {"weights": float(weights.trained_bytes + weights.frozen_bytes), **dict.fromkeys(("gradients", "optimiser", *BATCH_PARTS), 0.0)}
    for owner, size in step.sections[name].items():
        parts[_part(owner)] = parts.get(_part(owner), 0.0) + size
    if recompute:
        for stack, saved in _saved(step, name):
            part = _part(module_of(stack))
            parts[part] = max(0.0, parts[part] - saved)
    for part in BATCH_PARTS if name != "step" else ():
        parts[part] *= share
    return {part: size for part, size in _spread(parts, weights, engine, precision, world).items() if size >= 1}


def _saved(step: Step, section: str) -> Iterator[tuple[str, float]]:
    """Stack -> bytes that it does not hold in this section when its layers are computed again; one layer at a time is whole."""
    number, _, where = section.partition(" ")
    for i, (stack, (kept, given, _, depth)) in enumerate(step.layers.items()):
        layers = depth if section == "forward" or (number.isdigit() and int(number) > i) else depth - 1 if (number, where) == (str(i), "last") else 0
        if kept > given:
            yield stack, layers * (kept - given)


def _spread(parts: dict[str, float], weights: Weights, engine: str, precision: str, world: int) -> dict[str, float]:
    """How an engine divides the parts among its ranks, and what it adds."""
    computes = 4 if precision == "32-true" else 2
    made = dict(parts)
    if engine == "ddp":
        made["buffers"] = float(weights.trained_bytes)  # gradients are averaged in buckets of their own
    elif engine == "fsdp2":
        made |= {part: parts[part] / world for part in ("weights", "gradients", "optimiser")}
        made.pop(COPIES, None)
        made["buffers"] = float(2 * weights.unit * computes + weights.unit_trained * computes)
    elif engine.startswith("zero"):
        stage = int(engine[-1])
        low = computes / (weights.trained_bytes / weights.trained) if weights.trained else 1.0
        made.pop(COPIES, None)
        made["optimiser"] = (weights.trained * (8 + 4)) / world  # float32 states and weights, each rank its share
        made["gradients"] = parts["gradients"] * low / (world if stage > 1 else 1)
        made["weights"] = parts["weights"] * low / (world if stage > 2 else 1)
        made["buffers"] = float(min(ZERO_BUCKET, weights.trained) * computes * (1 if world == 1 else 2))
        if stage == 3:
            made["buffers"] += float(2 * weights.unit * computes)
    return made


def _part(owner: str) -> str:
    if owner.startswith(("encoders", "connectors")):
        return "vision"
    return {"loss": "logits", "lora": "language", "heads": "text"}.get(owner, owner)


# --- what would make it fit -----------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A way to make a stage fit: what to write into the recipe, and what a GPU then holds."""

    say: str
    memory: Memory


def cheapest(step: Step, weights: Weights, engine: str, precision: str, world: int, usable: float, micro: int, accumulate: int, stage: str, blocks: str) -> Change | None:
    """The first that fits, from what costs nothing but a line to what changes the training. None where none of them does. blocks: the modules that have some, as a recipe names them."""
    for say, kind, again, share in _changes(engine, world, micro, accumulate, stage, f"engine.recompute=[{blocks}]"):
        found = memory(step, weights, kind, precision, world, again, share)
        if found.total <= usable:
            return Change(say, found)
    return None


def _changes(engine: str, world: int, micro: int, accumulate: int, stage: str, recompute: str) -> Iterator[tuple[str, str, bool, float]]:
    halves = [n for n in (2, 4, 8, 16, 32, 64, 128) if micro % n == 0]
    kinds = [engine, *(k for k in ("fsdp2", "zero3") if world > 1 and engine != k)]
    for kind in kinds:
        first = [f"engine.kind={kind}"] if kind != engine else []
        if first:
            yield _said(first), kind, False, 1.0
        for n in halves:
            yield _said([*first, f"stages.{stage}.accumulate={accumulate * n}"]), kind, False, 1 / n
        yield _said([*first, recompute]), kind, True, 1.0
        for n in halves:
            yield _said([*first, recompute, f"stages.{stage}.accumulate={accumulate * n}"]), kind, True, 1 / n


def _said(lines: list[str]) -> str:
    return " and ".join(lines)


def rounded(memory: Memory, unit: float) -> dict[str, Any]:
    """For JSON: parts in `unit` bytes."""
    return {**{part: round(size / unit, 3) for part, size in memory.parts.items()}, "total": round(memory.total / unit, 3)}

