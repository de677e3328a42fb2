"""`medvlm plan`: what a recipe trains, how long its samples are, what a GPU would hold, how long it takes, and whether
it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from medvlm.core.stage_config import StageConfig
from medvlm.models.parts import group_of, matches
from medvlm.preflight import memory as bytes_of
from medvlm.preflight.draft import Draft, make_draft
from medvlm.preflight.gpus import GIB, Machines
from medvlm.preflight.memory import ENGINES, Memory, Recompute, every_stack
from medvlm.preflight.precision import weights_in
from medvlm.preflight.samples import Look, look
from medvlm.preflight.simulate import Step, simulate
from medvlm.preflight.staging import items_of, longest, optimizers_of, stage_on_meta
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.schema import Recipe
from medvlm.train.terms import sum_of_losses

MFU = 0.4
"""Share of a GPU's peak that training reaches, where nothing else is said."""


@dataclass(frozen=True)
class Module:
    """Parameters of one part of a model."""

    name: str
    trained: int
    frozen: int


@dataclass(frozen=True)
class StagePlan:
    """micro: samples of a micro-batch. checkpoint: bytes of one. tokens: mean of a sample; longest: most of a sample.
    memory: engine -> GiB by part of the longest micro-batch. seconds: of a step. flops, memory, fits and seconds are
    empty where the stage was not run on the meta device; fits and seconds also without a GPU."""

    name: str
    kind: str
    steps: int
    batch: int
    micro: int
    modules: tuple[Module, ...]
    adapters: int
    checkpoint: int
    checkpoints: int
    tokens: float = 0.0
    longest: int = 0
    flops: float = 0.0
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    chosen: str = ""
    fits: bool | None = None
    remedy: str = ""
    seconds: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    name: str
    machines: str
    engine: str
    precision: str
    mfu: float
    sources: Mapping[str, Mapping[str, Any]]
    stages: tuple[StagePlan, ...]
    shards: int | None
    not_checked: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(loaded: LoadedRecipe, runs: Path, machines: Machines | None, mfu: float = MFU) -> Plan:
    """Raises RecipeError for a model that nothing is known of, and for `trains`, `lr_of` and adapters that match
    nothing in the real model."""
    given, looks = loaded.recipe, look(loaded, runs)
    with TemporaryDirectory() as folder:
        draft = make_draft(given, looks, Path(folder))
        recipe = draft.recipe
        stages = tuple(_plan_stage(draft, i, looks, machines, mfu) for i in range(len(recipe.stages)))
    missing = [f"data.{name}: {each.how}" for name, each in looks.items() if not each.is_real]
    if not draft.knows_words:
        missing.append(
            "text lengths: the tokenizer of the language or text model is not here, so tokens are counted as characters"
            " / 3.5"
        )
    if machines is None:
        missing.append("whether it fits, and how long it takes: say which GPUs with --gpus, e.g. --gpus h200:8")
    sizes = [each.bytes for each in looks.values()]
    return Plan(
        given.name, str(machines or ""), _engine(recipe, machines), recipe.engine.precision, mfu,
        {name: {"how": each.how, "samples": each.count, "bytes": each.bytes} for name, each in looks.items()},
        stages, sum(s for s in sizes if s) if all(sizes) else None, tuple(missing),
    )  # fmt: skip


def _plan_stage(draft: Draft, i: int, looks: Mapping[str, Look], machines: Machines | None, mfu: float) -> StagePlan:
    recipe, config = draft.recipe, draft.recipe.stages[i]
    world = machines.world if machines else 1
    stage = stage_on_meta(draft, i, world)
    extra = stage.make_extra_models()
    optimizers_of(stage, config)  # `lr_of` finds what it names
    items, notes = items_of(stage, config, looks)
    found = replace(_describe(stage, recipe, world), notes=tuple(notes))
    if not items:
        why = "; ".join(notes) or "they have no question of its tasks"
        return replace(found, notes=(f"none of the samples that were looked at can be used: {why}",))
    drawn = longest(stage, config, items, found.micro, recipe.seed)
    weights_in(stage.model, recipe.engine.precision)
    try:
        step = simulate(
            stage.model,
            lambda m: sum_of_losses(stage.compute_loss(m, stage.make_heaviest(drawn), 0)),
            lambda: optimizers_of(stage, config),
            group_of,
            recipe.engine.precision,
            config.optim.kind == "adamw8bit",
        )
    except (NotImplementedError, RuntimeError, TypeError, IndexError, ValueError) as reason:
        first = str(reason).splitlines()[0][:160] if str(reason) else ""
        why = f"the stage cannot be run on tensors without data ({type(reason).__name__}: {first})"
        return replace(found, notes=(f"memory and time not checked: {why}",))
    tokens = [stage.count_tokens(item) for source in items.values() for item in source]
    found = replace(found, tokens=mean(tokens), longest=max(tokens))
    weights = bytes_of.weights_of(stage.model, extra.values())
    return _with_memory(_with_time(found, step, recipe, machines, mfu, config), step, weights, recipe, machines, config)


def _describe(stage: Any, recipe: Recipe, world: int) -> StagePlan:
    """What is known before anything is computed."""
    config, modules = stage.config, _modules(stage.model)
    size = 4 if recipe.engine.precision != "bf16-true" else 2
    return StagePlan(
        name=config.name,
        kind=config.kind,
        steps=config.steps,
        batch=config.batch,
        micro=max(1, config.batch // (world * config.micro_batches)),
        modules=modules,
        adapters=sum(1 for name, _ in stage.model.named_modules() if name.endswith("lora_A")),
        checkpoint=sum(m.trained + m.frozen for m in modules) * size,
        checkpoints=2,
    )


def _with_memory(
    found: StagePlan,
    step: Step,
    weights: bytes_of.Weights,
    recipe: Recipe,
    machines: Machines | None,
    config: StageConfig,
) -> StagePlan:
    """With what a GPU holds under each engine, and what would make it fit."""
    precision, world, engine = recipe.engine.precision, machines.world if machines else 1, _engine(recipe, machines)
    chosen = bytes_of.memory(
        step, weights, engine, precision, world, _recomputed(recipe), offload=recipe.engine.offload
    )
    others = [
        bytes_of.memory(step, weights, kind, precision, world, again)
        for kind in _engines(engine, world)
        for again in (None, every_stack)
    ]
    options = [chosen, *(m for m in others if _named(m) != _named(chosen))]
    fits = chosen.total <= machines.usable if machines else None
    change = None
    if machines and not fits:
        accumulate, usable = config.micro_batches, machines.usable
        change = bytes_of.cheapest(
            step, weights, engine, precision, world, usable, found.micro, accumulate, config.name
        )
    optimizer = step.held.get("optimiser", 0.0)
    return replace(
        found,
        memory={_named(m): bytes_of.rounded(m, GIB) for m in options},
        chosen=_named(chosen),
        fits=fits,
        remedy=_remedy(change, step, config, fits),
        checkpoint=round(weights.trained_bytes + weights.frozen_bytes + weights.beside + optimizer),
        checkpoints=3 if config.keep == "best" else 2,
    )


def _with_time(
    found: StagePlan, step: Step, recipe: Recipe, machines: Machines | None, mfu: float, config: StageConfig
) -> StagePlan:
    """With the operations of a step; layers that are recomputed run forward twice."""
    is_recomputed = _recomputed(recipe)
    again = [
        forward_flops * depth
        for name, (_, _, forward_flops, depth) in step.layers.items()
        if is_recomputed is not None and is_recomputed(name)
    ]
    flops, accumulate = step.flops + sum(again), config.micro_batches
    found = replace(found, flops=flops * accumulate * (machines.world if machines else 1))
    if machines is None:
        return found
    peak = machines.gpu.fp32 if recipe.engine.precision == "32-true" else machines.gpu.bf16
    return replace(found, seconds=flops * accumulate / (peak * 1e12 * mfu))


def _modules(model: nn.Module) -> tuple[Module, ...]:
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        counts.setdefault(group_of(name), [0, 0])[0 if parameter.requires_grad else 1] += parameter.numel()
    return tuple(Module(name, trained, frozen) for name, (trained, frozen) in counts.items())


def _recomputed(recipe: Recipe) -> Recompute | None:
    """Which layers are computed again, as the recipe says."""
    patterns = recipe.engine.recompute
    return (lambda stack: any(matches(stack, pattern) for pattern in patterns)) if patterns else None


def _engine(recipe: Recipe, machines: Machines | None) -> str:
    kind: str = recipe.engine.kind
    return kind if kind != "auto" else "ddp" if machines and machines.world > 1 else "single"


def _engines(chosen: str, world: int) -> list[str]:
    return [chosen, *(kind for kind in ENGINES if kind != chosen and (kind == "single") == (world == 1))]


def _named(memory: Memory) -> str:
    return memory.engine + (" recompute" if memory.recompute else "")


def _remedy(change: bytes_of.Change | None, step: Step, config: StageConfig, fits: bool | None) -> str:
    if fits is not False:
        return ""
    if change is not None:
        return f"{change.say} makes it {change.memory.total / GIB:.1f} GiB"
    trains_language = any(p.split(".")[0] == "language" for p in config.trains)
    less = (
        "adapters instead of the whole language model (trains: [connectors, lora], lora: {rank: 16})"
        if trains_language
        else "a smaller model"
    )
    return f"no smaller micro-batch, recomputation or sharding over these GPUs is enough; more GPUs, or {less}"
