"""Bytes of one GPU by part, for every engine, from what a step of one process holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from medvlm.models.parts import module_of
from medvlm.preflight.precision import COPIES
from medvlm.preflight.simulate import Step, stacks_of

ENGINES = ("single", "ddp", "fsdp2", "zero1", "zero2", "zero3")
BUCKET = 50_000_000
"""Elements that DeepSpeed sends at once (engine_zero.BUCKET)."""
Recompute = Callable[[str], bool]
"""Whether the layers of a stack are computed again in the backward pass."""
BATCH_PARTS = ("language", "text", "vision", "logits", "work")
"""Parts that shrink with the micro-batch."""


@dataclass(frozen=True)
class Weights:
    """Of a model in the precision it trains in: elements and bytes of what is trained, bytes of what is not. root,
    block: elements of what lies outside of all layers, and of the largest layer; block_trained: those of a layer that
    are trained at most. beside: bytes of the stage's extra models, whole on every GPU."""

    trained: int
    trained_bytes: int
    frozen_bytes: int
    root: int
    block: int
    block_trained: int
    beside: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the worst moment of a step, by part."""

    engine: str
    recompute: bool
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def weights_of(model: nn.Module, extra: Iterable[nn.Module] = ()) -> Weights:
    """extra: models beside it."""
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [t for t in (*model.parameters(), *model.buffers()) if not t.requires_grad]
    layers = [layer for stack in stacks_of(model).values() for layer in stack]
    stacked = {id(p) for layer in layers for p in layer.parameters()}
    return Weights(
        sum(p.numel() for p in trained),
        sum(p.numel() * p.element_size() for p in trained),
        sum(t.numel() * t.element_size() for t in frozen),
        sum(p.numel() for p in model.parameters() if id(p) not in stacked),
        max((sum(p.numel() for p in x.parameters()) for x in layers), default=0),
        max((sum(p.numel() for p in x.parameters() if p.requires_grad) for x in layers), default=0),
        sum(t.numel() * t.element_size() for other in extra for t in (*other.parameters(), *other.buffers())),
    )


def memory(
    step: Step,
    weights: Weights,
    engine: str,
    precision: str,
    world: int,
    recompute: Recompute | None = None,
    share: float = 1.0,
    offload: bool = False,
) -> Memory:
    """recompute: by default no layer is. share: of the micro-batch that was simulated; what depends on it is taken to
    be proportional."""
    sections = [_section(step, name, recompute, share) for name in step.sections]
    spread = [_spread(parts, weights, engine, precision, world, offload) for parts in sections]
    worst = max(spread, key=lambda parts: sum(parts.values()))
    worst["extra"] = float(weights.beside)
    return Memory(engine, recompute is not None, {part: size for part, size in worst.items() if size >= 1})


def _section(step: Step, name: str, recompute: Recompute | None, share: float) -> dict[str, float]:
    parts = dict.fromkeys(("gradients", "optimiser", *BATCH_PARTS), 0.0)
    for owner, size in step.sections[name].items():
        parts[_part(owner)] = parts.get(_part(owner), 0.0) + size
    for stack, saved in _saved(step, name) if recompute else ():
        if recompute(stack):  # type: ignore[misc]
            part = _part(module_of(stack))
            parts[part] = max(0.0, parts[part] - saved)
    for part in BATCH_PARTS if name != "step" else ():
        parts[part] *= share
    return parts


def _saved(step: Step, section: str) -> Iterator[tuple[str, float]]:
    """Stack -> bytes that it does not hold in this section when its layers are computed again; one layer at a time is
    whole."""
    number, _, where = section.partition(" ")
    for i, (stack, (kept, given, _, depth)) in enumerate(step.layers.items()):
        layers = (
            depth
            if section == "forward" or (number.isdigit() and int(number) > i)
            else depth - 1
            if (number, where) == (str(i), "last")
            else 0
        )
        if kept > given:
            yield stack, layers * (kept - given)


def _spread(
    parts: dict[str, float], weights: Weights, engine: str, precision: str, world: int, offload: bool
) -> dict[str, float]:
    """How an engine divides the parts among its ranks, and what it adds. offload: what is sharded waits in the CPU's
    memory."""
    computes = 4 if precision == "32-true" else 2
    made = {"weights": float(weights.trained_bytes + weights.frozen_bytes), **parts}
    shared: tuple[str, ...] = ()
    if engine == "ddp":
        made["buffers"] = float(weights.trained_bytes)  # gradients are averaged in buckets of their own
    elif engine == "fsdp2":
        shared = ("weights", "gradients", "optimiser")
        made.pop(COPIES, None)  # weights are gathered in the type that is computed in
        # What lies outside of the layers stays gathered; of layers, one that runs, one that is on its way and the bytes
        # they came in; gradients of a layer as they are computed, and in float32 as they are sent.
        made["buffers"] = float((weights.root + 3 * weights.block) * computes + weights.block_trained * (computes + 4))
    elif engine.startswith("zero"):
        stage = int(engine[-1])
        shared = ("optimiser", "gradients", "weights")[:stage]
        made["optimiser"] += 4.0 * weights.trained  # it steps a copy of its own
        made["buffers"] = 4.0 * min(BUCKET, weights.trained) * (1 if stage < 3 else 2)
        if stage == 3:
            made.pop(COPIES, None)
            made["buffers"] += float((weights.root + 2 * weights.block) * 4)
    for part in shared:
        made[part] = 0.0 if offload else made[part] / world
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


def cheapest(
    step: Step,
    weights: Weights,
    engine: str,
    precision: str,
    world: int,
    usable: float,
    micro: int,
    accumulate: int,
    stage: str,
) -> Change | None:
    """The first that fits, from what costs nothing but a line to what changes the training. None where none of them
    does."""
    layers = ", ".join(sorted({module_of(name) for name in step.layers}))
    for say, kind, again, share in _changes(engine, world, micro, accumulate, stage, f"engine.recompute=[{layers}]"):
        found = memory(step, weights, kind, precision, world, every_stack if again else None, share)
        if found.total <= usable:
            return Change(say, found)
    return None


def every_stack(stack: str) -> bool:
    return True


def _changes(
    engine: str, world: int, micro: int, accumulate: int, stage: str, again: str
) -> Iterator[tuple[str, str, bool, float]]:
    halves = [n for n in (2, 4, 8, 16, 32, 64, 128) if micro % n == 0]
    kinds = [engine, *(k for k in ("fsdp2", "zero3") if world > 1 and engine != k)]
    for kind in kinds:
        first = [f"engine.kind={kind}"] if kind != engine else []
        if first:
            yield _said(first), kind, False, 1.0
        for n in halves:
            yield _said([*first, f"stages.{stage}.accumulate={accumulate * n}"]), kind, False, 1 / n
        yield _said([*first, again]), kind, True, 1.0
        for n in halves:
            yield _said([*first, again, f"stages.{stage}.accumulate={accumulate * n}"]), kind, True, 1 / n


def _said(lines: list[str]) -> str:
    return " and ".join(lines)


def rounded(memory: Memory, unit: float) -> dict[str, Any]:
    """For JSON: parts in `unit` bytes."""
    return {
        **{part: round(size / unit, 3) for part, size in memory.parts.items()},
        "total": round(memory.total / unit, 3),
    }
