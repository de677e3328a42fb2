"""`medvlm plan`: what a recipe trains, how long its samples are, how much memory and time it needs, and whether it
fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from medvlm.core.document import format_path
from medvlm.core.stage_config import StageConfig
from medvlm.models.parts import group_of, matches
from medvlm.preflight import memory as bytes_of
from medvlm.preflight.dealt import even_out, measure_share
from medvlm.preflight.draft import Draft, make_draft
from medvlm.preflight.gpus import GIB, Machines
from medvlm.preflight.host import estimate_hosts, explain_own, measure_building
from medvlm.preflight.lighter import list_lighter
from medvlm.preflight.memory import ENGINES, Memory, Recompute, recompute_all
from medvlm.preflight.precision import convert_weights
from medvlm.preflight.samples import Look, look
from medvlm.preflight.scales import describe_scales, list_grids
from medvlm.preflight.simulate import Step, simulate
from medvlm.preflight.staging import build_stage, count_steps, draw_longest, optimizers_of, prepare_items
from medvlm.preflight.stored import count_stored
from medvlm.recipe.files import list_missing_files
from medvlm.recipe.graph import explain_whole
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.schema import Recipe
from medvlm.train.average import make_models
from medvlm.train.terms import sum_of_losses

MFU = 0.4
"""Default of the model FLOPs utilization, the share of a GPU's peak that training reaches."""


@dataclass(frozen=True)
class Module:
    """Parameters of one part of a model."""

    name: str
    trained: int
    frozen: int


@dataclass(frozen=True)
class StagePlan:
    """The plan of one stage.

    steps: 0 if only packing could tell how many `epochs` are. micro: samples of the largest micro-batch; filled says
    it in words. checkpoint: bytes of one checkpoint. left_out: bytes of weights that it leaves to the published files.
    checkpoints: how many are kept at once. tokens: mean per sample. longest: maximum per sample. memory: engine -> GiB
    by part for the longest micro-batch. chosen: the recipe's engine, a key of `memory`. host: engine -> GiB of a node's
    own memory, for one rank (`rank`) and for all of its ranks (`node`). seconds: per step. flops, memory, host, fits
    and seconds are empty if the stage was not run on the meta device; fits and seconds also if no GPU was given.
    scales: how large media are in the file and as shown to the model. change: overrides with which it fits, and
    change_gib what it then needs; remedy says this and more."""

    name: str
    kind: str
    steps: int
    batch: int
    micro: int
    modules: tuple[Module, ...]
    adapters: int
    checkpoint: int
    left_out: int
    checkpoints: int
    tokens: float = 0.0
    longest: int = 0
    flops: float = 0.0
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    chosen: str = ""
    host: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fits: bool | None = None
    change: str = ""
    change_gib: float = 0.0
    remedy: str = ""
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    epochs: float | None = None
    filled: str = ""


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
    """Raises RecipeError for a model whose config is not known, and for `trains`, `lr_of` and adapters that match
    nothing in the model."""
    loaded.require_stages()
    given, looks = loaded.recipe, look(loaded, runs)
    with TemporaryDirectory() as folder:
        draft = make_draft(given, looks, Path(folder))
        recipe = draft.recipe
        stages = tuple(_plan_stage(given, draft, i, looks, machines, mfu) for i in range(len(recipe.stages)))
    missing = [f"data.{name}: {each.how}" for name, each in looks.items() if not each.is_real]
    problems = [*loaded.list_missing_origins(), *list_missing_files(given)]
    missing += [f"{format_path(problem.path, loaded.document.data)}: {problem}" for problem in problems]
    if not draft.knows_words:
        missing.append(
            "text lengths: the tokenizer of the language or text model is not on this machine, so the number of tokens"
            " is estimated as characters / 3.5"
        )
    if machines is None:
        missing.append("whether it fits, and how long it takes: name the GPUs with --gpus, e.g. --gpus h200:8")
    elif not machines.gpu.bf16:
        missing.append(f"how long it takes: the speed of {machines.name} is not known")
    sizes = [each.bytes for each in looks.values()]
    return Plan(
        given.name, str(machines or ""), _choose_engine(recipe, machines), recipe.engine.precision, mfu,
        {name: {"how": each.how, "samples": each.count, "bytes": each.bytes} for name, each in looks.items()},
        stages, sum(s for s in sizes if s) if all(sizes) else None, tuple(missing),
    )  # fmt: skip


def _plan_stage(
    given: Recipe, draft: Draft, i: int, looks: Mapping[str, Look], machines: Machines | None, mfu: float
) -> StagePlan:
    """The plan of a stage. One that does not fit is planned with lighter forms of the model too."""
    found = _plan_as_is(draft, i, looks, machines, mfu)
    if found.fits is not False:
        return found
    offers = [(found.change, found.change_gib)]
    for say, lighter in list_lighter(given, draft, i):
        other = _plan_as_is(lighter, i, looks, machines, mfu)
        if other.fits:
            offers.append((say, other.memory[other.chosen]["total"]))
        elif other.change:
            offers.append((f"{say} and {other.change}", other.change_gib))
    told = [f"with {say} it needs {gib:.1f} GiB" for say, gib in offers if say]
    return replace(found, remedy="; ".join(told) or _explain_hopeless(draft.recipe.stages[i]))


def _plan_as_is(draft: Draft, i: int, looks: Mapping[str, Look], machines: Machines | None, mfu: float) -> StagePlan:
    recipe = draft.recipe
    world = machines.world if machines else 1
    stage = build_stage(draft, i, world, looks)
    config, uncounted = count_steps(stage, looks)
    extra = make_models(stage)
    optimizers_of(stage, config)  # raises if `lr_of` matches nothing
    items, notes = prepare_items(stage, config, looks)
    samples = [sample for source in config.mix for sample in looks[source].samples if looks[source].is_real]
    scales = describe_scales(stage.setup.prepare, samples, list_grids(recipe))
    stored = count_stored(convert_weights(stage.model, recipe.engine.precision), recipe, i)
    found = replace(_describe(stage, config, world, *stored), notes=uncounted, scales=tuple(scales))
    if not items:
        why = "; ".join(notes) or "they have no question of its tasks"
        return replace(found, notes=(*found.notes, f"none of the samples that were read can be used: {why}"))
    found = replace(found, notes=(*found.notes, *notes))
    drawn = stage.choose_heaviest([item for source in items.values() for item in source])
    is_bound, drawn = bool(drawn), drawn or draw_longest(stage, config, items, found.micro, recipe.seed)
    found = replace(found, micro=len(drawn), filled=stage.describe_micro(len(drawn)))
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
        why = f"the stage cannot run on the meta device ({type(reason).__name__}: {first})"
        return replace(found, notes=(*found.notes, f"memory and time not checked: {why}"))
    if recipe.engine.deal_media and world > 1:
        step = even_out(step, measure_share(config, items, drawn, world, recipe.seed))
    tokens = [stage.count_tokens(item) for source in items.values() for item in source]
    found = replace(found, tokens=mean(tokens), longest=max(tokens))
    passes = float(config.micro_batches)
    if is_bound:  # a step has as many such micro-batches as its tokens fill
        passes = config.batch * found.tokens / (world * sum(map(stage.count_tokens, drawn)))
    weights = bytes_of.weights_of(stage.model, extra.values())
    found = _add_memory(_add_time(found, step, recipe, machines, mfu, passes), step, weights, recipe, machines, config)
    engine, why_whole = _choose_engine(recipe, machines), explain_whole(config)
    building = measure_building(stage.model, draft.published, why_whole)
    kinds = _list_engines(engine, world)
    host = estimate_hosts(building, step, weights, recipe.engine, kinds, machines, found.checkpoint)
    return replace(found, host=host, notes=(*found.notes, *explain_own(building, engine, why_whole)))


def _describe(stage: Any, config: StageConfig, world: int, stored: int, left_out: int) -> StagePlan:
    """The plan as far as it is known before the step is simulated. stored, left_out: bytes of the model that are and
    are not in a checkpoint."""
    modules = _count_modules(stage.model)
    return StagePlan(
        name=config.name,
        kind=config.kind,
        steps=config.steps,
        epochs=config.epochs,
        batch=config.batch,
        micro=max(1, config.batch // (world * config.micro_batches)),
        filled=stage.describe_micro(max(1, config.batch // (world * config.micro_batches))),
        modules=modules,
        adapters=sum(1 for name, _ in stage.model.named_modules() if name.endswith("lora_A")),
        checkpoint=stored,
        left_out=left_out,
        checkpoints=2,
    )


def _add_memory(
    found: StagePlan,
    step: Step,
    weights: bytes_of.Weights,
    recipe: Recipe,
    machines: Machines | None,
    config: StageConfig,
) -> StagePlan:
    """Adds the memory of a GPU under each engine, and a change that makes the stage fit."""
    precision, world = recipe.engine.precision, machines.world if machines else 1
    engine = _choose_engine(recipe, machines)
    chosen = bytes_of.estimate_memory(
        step, weights, engine, precision, world, _make_recompute(recipe), offload=recipe.engine.offload
    )
    others = [
        bytes_of.estimate_memory(step, weights, kind, precision, world, again)
        for kind in _list_engines(engine, world)
        for again in (None, recompute_all)
    ]
    options = [chosen, *(m for m in others if _name_option(m) != _name_option(chosen))]
    fits = chosen.total <= machines.usable if machines else None
    change = None
    if machines and not fits:
        smaller = config.list_smaller(found.micro)
        change = bytes_of.find_cheapest_change(step, weights, engine, precision, world, machines.usable, smaller)
    optimizer = step.held.get("optimiser", 0.0)
    return replace(
        found,
        memory={_name_option(m): bytes_of.round_parts(m, GIB) for m in options},
        chosen=_name_option(chosen),
        fits=fits,
        change=change.say if change else "",
        change_gib=change.memory.total / GIB if change else 0.0,
        checkpoint=round(found.checkpoint + weights.extra_bytes + optimizer),
        checkpoints=3 if config.keep == "best" else 2,
    )


def _add_time(
    found: StagePlan, step: Step, recipe: Recipe, machines: Machines | None, mfu: float, passes: float
) -> StagePlan:
    """Adds the operations of a step, and its time. Recomputed layers run forward twice.

    passes: micro-batches of a rank in a step, each as large as the simulated one."""
    is_recomputed = _make_recompute(recipe)
    again = [
        forward_flops * depth
        for name, (_, _, forward_flops, depth) in step.layers.items()
        if is_recomputed is not None and is_recomputed(name)
    ]
    flops = (step.flops + sum(again)) * passes
    found = replace(found, flops=flops * (machines.world if machines else 1))
    if machines is None or not machines.gpu.bf16:
        return found
    peak = machines.gpu.fp32 if recipe.engine.precision == "32-true" else machines.gpu.bf16
    return replace(found, seconds=flops / (peak * 1e12 * mfu))


def _count_modules(model: nn.Module) -> tuple[Module, ...]:
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        counts.setdefault(group_of(name), [0, 0])[0 if parameter.requires_grad else 1] += parameter.numel()
    return tuple(Module(name, trained, frozen) for name, (trained, frozen) in counts.items())


def _make_recompute(recipe: Recipe) -> Recompute | None:
    """Which layers the recipe recomputes; None for none."""
    patterns = recipe.engine.recompute
    return (lambda stack: any(matches(stack, pattern) for pattern in patterns)) if patterns else None


def _choose_engine(recipe: Recipe, machines: Machines | None) -> str:
    kind: str = recipe.engine.kind
    return kind if kind != "auto" else "ddp" if machines and machines.world > 1 else "single"


def _list_engines(chosen: str, world: int) -> list[str]:
    return [chosen, *(kind for kind in ENGINES if kind != chosen and (kind == "single") == (world == 1))]


def _name_option(memory: Memory) -> str:
    return memory.engine + (" recompute" if memory.recompute else "")


def _explain_hopeless(config: StageConfig) -> str:
    trains_language = any(p.split(".")[0] == "language" for p in config.trains)
    less = (
        "adapters instead of the whole language model (trains: [connectors, lora], lora: {rank: 16})"
        if trains_language
        else "a smaller model"
    )
    return f"a smaller micro-batch, recomputation and sharding are not enough on these GPUs; use more GPUs, or {less}"
