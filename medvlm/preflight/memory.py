"""Estimates the memory of one GPU by part, for every engine, from a simulated step of one process."""

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
"""Elements that DeepSpeed communicates at once (engine_zero.BUCKET)."""
Recompute = Callable[[str], bool]
"""Stack -> whether its layers are recomputed in the backward pass."""
BATCH_PARTS = ("language", "text", "vision", "logits", "work")
"""Parts whose memory is proportional to the micro-batch."""


@dataclass(frozen=True)
class Weights:
    """Sizes of a model in the precision it is trained in.

    trained: elements that are trained. root: elements outside of all layers. block: elements of the largest layer.
    block_trained: the most trained elements of any layer. extra_bytes: of the stage's extra models, which every GPU has
    whole."""

    trained: int
    trained_bytes: int
    frozen_bytes: int
    root: int
    root_bytes: int
    block: int
    block_bytes: int
    block_trained: int
    extra_bytes: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the peak of a step, by part."""

    engine: str
    recompute: bool
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def weights_of(model: nn.Module, extra: Iterable[nn.Module] = ()) -> Weights:
    """The sizes of a model. extra: further models of the stage."""
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [t for t in (*model.parameters(), *model.buffers()) if not t.requires_grad]
    layers = [layer for stack in stacks_of(model).values() for layer in stack]
    stacked = {id(p) for layer in layers for p in layer.parameters()}
    root = [p for p in model.parameters() if id(p) not in stacked]
    return Weights(
        sum(p.numel() for p in trained),
        sum(p.numel() * p.element_size() for p in trained),
        sum(t.numel() * t.element_size() for t in frozen),
        sum(p.numel() for p in root),
        sum(p.numel() * p.element_size() for p in root),
        max((sum(p.numel() for p in x.parameters()) for x in layers), default=0),
        max((sum(p.numel() * p.element_size() for p in x.parameters()) for x in layers), default=0),
        max((sum(p.numel() for p in x.parameters() if p.requires_grad) for x in layers), default=0),
        sum(t.numel() * t.element_size() for other in extra for t in (*other.parameters(), *other.buffers())),
    )


def estimate_memory(
    step: Step,
    weights: Weights,
    engine: str,
    precision: str,
    world: int,
    recompute: Recompute | None = None,
    share: float = 1.0,
    offload: bool = False,
) -> Memory:
    """The memory of one GPU under an engine.

    recompute: by default no layer is recomputed. share: size of the micro-batch relative to the simulated one. offload:
    sharded parts are kept in the CPU's memory."""
    sections = [_sum_section(step, name, recompute, share) for name in step.sections]
    spread = [_shard_parts(parts, weights, engine, precision, world, offload) for parts in sections]
    worst = max(spread, key=lambda parts: sum(parts.values()))
    worst["extra"] = float(weights.extra_bytes)
    return Memory(engine, recompute is not None, {part: size for part, size in worst.items() if size >= 1})


def _sum_section(step: Step, name: str, recompute: Recompute | None, share: float) -> dict[str, float]:
    parts = dict.fromkeys(("gradients", "optimiser", *BATCH_PARTS), 0.0)
    for owner, size in step.sections[name].items():
        parts[_name_part(owner)] = parts.get(_name_part(owner), 0.0) + size
    for stack, part, saved in _list_savings(step, name) if recompute else ():
        if recompute(stack):  # type: ignore[misc]
            parts[part] = max(0.0, parts.get(part, 0.0) - saved)
    for part in BATCH_PARTS if name != "step" else ():
        parts[part] *= share
    return parts


def _list_savings(step: Step, section: str) -> Iterator[tuple[str, str, float]]:
    """(stack, part, bytes that recomputing its layers saves of this part in this section). A recomputed layer keeps its
    input only. Copies of weights are there until autocast ends, which is after the forward pass."""
    number, _, where = section.partition(" ")
    numbers = list(step.copies or step.layers)
    for stack, (kept, given, _, depth) in step.layers.items():
        i = numbers.index(stack)
        is_before = section == "forward" or (number.isdigit() and int(number) > i)
        # In the backward pass of its last layer, that one layer is held completely.
        is_in_last = (number, where) == (str(i), "last")
        layers = depth if is_before else depth - 1 if is_in_last else 0
        if kept > given:
            yield stack, _name_part(module_of(stack)), layers * (kept - given)
        if section != "forward" and stack in step.copies:
            yield stack, COPIES, layers * step.copies[stack]


def _shard_parts(
    parts: dict[str, float], weights: Weights, engine: str, precision: str, world: int, offload: bool
) -> dict[str, float]:
    """One rank's share of the parts under an engine, with the engine's own buffers. offload: sharded parts are kept in
    the CPU's memory."""
    computes = 4 if precision == "32-true" else 2
    made = {"weights": float(weights.trained_bytes + weights.frozen_bytes), **parts}
    shared: tuple[str, ...] = ()
    if engine == "ddp":
        made["buffers"] = float(weights.trained_bytes)  # buckets stand beside the gradients until the last micro-batch
    elif engine == "fsdp2":
        shared = ("weights", "gradients", "optimiser")
        made.pop(COPIES, None)  # weights are gathered in the computing type
        # Weights outside of the layers stay gathered. Of the layers, three copies exist at once: the running one, the
        # next one, and the buffer it is gathered in. Gradients of one layer exist in the computing type and, for the
        # reduction, in float32.
        made["buffers"] = float((weights.root + 3 * weights.block) * computes + weights.block_trained * (computes + 4))
    elif engine.startswith("zero"):
        stage = int(engine[-1])
        shared = ("optimiser", "gradients", "weights")[:stage]
        made["optimiser"] += 4.0 * weights.trained  # DeepSpeed updates its own float32 copy
        made["buffers"] = 4.0 * min(BUCKET, weights.trained) * (1 if stage < 3 else 2)
        if stage == 3:
            made.pop(COPIES, None)
            made["buffers"] += float(weights.root_bytes + 2 * weights.block_bytes)
    for part in shared:
        made[part] = 0.0 if offload else made[part] / world
    return made


def _name_part(owner: str) -> str:
    if owner.startswith(("encoders", "connectors")):
        return "vision"
    return {"loss": "logits", "lora": "language", "heads": "text"}.get(owner, owner)


# --- what would make it fit -----------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A way to make a stage fit. say: the overrides for the recipe. memory: of a GPU with them."""

    say: str
    memory: Memory


def find_cheapest_change(
    step: Step,
    weights: Weights,
    engine: str,
    precision: str,
    world: int,
    usable: float,
    smaller: Mapping[int, str],
) -> Change | None:
    """The first change that fits, or None. Changes are tried from the cheapest to those that cost the most time.

    smaller: n -> overrides for micro-batches of an n-th of the size."""
    recompute = f"engine.recompute=[{', '.join(sorted({module_of(name) for name in step.layers}))}]"
    for say, kind, again, share in _list_changes(engine, world, smaller, recompute):
        found = estimate_memory(step, weights, kind, precision, world, recompute_all if again else None, share)
        if found.total <= usable:
            return Change(say, found)
    return None


def recompute_all(stack: str) -> bool:
    return True


def _list_changes(
    engine: str, world: int, smaller: Mapping[int, str], again: str
) -> Iterator[tuple[str, str, bool, float]]:
    kinds = [engine, *(k for k in ("fsdp2", "zero3") if world > 1 and engine != k)]
    for kind in kinds:
        first = [f"engine.kind={kind}"] if kind != engine else []
        if first:
            yield _join(first), kind, False, 1.0
        for n, say in smaller.items():
            yield _join([*first, say]), kind, False, 1 / n
        yield _join([*first, again]), kind, True, 1.0
        for n, say in smaller.items():
            yield _join([*first, again, say]), kind, True, 1 / n


def _join(lines: list[str]) -> str:
    return " and ".join(lines)


def round_parts(memory: Memory, unit: float) -> dict[str, Any]:
    """The parts and their total in units of `unit` bytes, for JSON."""
    return {
        **{part: round(size / unit, 3) for part, size in memory.parts.items()},
        "total": round(memory.total / unit, 3),
    }
