"""`medvlm train`: runs the stages of a recipe in order. Finished stages are reused, an unfinished one is resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import torch

from medvlm import __version__
from medvlm.commands.building import build_stage, make_extra_models
from medvlm.commands.identity import describe_teachers, find_aliases, identify, recognise
from medvlm.commands.initial_weights import find_starts
from medvlm.commands.lineage import write_lineage
from medvlm.compositions._assemble import assemble
from medvlm.compositions._train_with_context import train_with_context
from medvlm.core.composition import Assembly, composition_of_stage, name_of
from medvlm.core.durable import require_local
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.geometry import WARNING
from medvlm.core.live import Live
from medvlm.core.run import RunFolder, hash_code, hash_files, read_record, write_json
from medvlm.core.stage_config import StageConfig
from medvlm.data.order import draw_below
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.models.parts import count_parameters, set_trained
from medvlm.preflight.scales import describe_trained
from medvlm.preflight.staging import check_stages
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.packed import require_evaluation, require_samples
from medvlm.recipe.sources import OpenSource, collect_texts, open_sources, require_roots
from medvlm.report.tracked import track_training
from medvlm.stages._base import Setup
from medvlm.train import checkpoint, loop
from medvlm.train.engine import Engine
from medvlm.train.engines import make_engine
from medvlm.train.environment import describe_environment
from medvlm.train.finished import hash_texts, require_texts, require_tokenizer
from medvlm.train.hold import hold, write_status
from medvlm.train.hooks import collect_hooks
from medvlm.train.log import Log
from medvlm.train.proof import Proof
from medvlm.train.stopping import end_with_torchrun
from medvlm.train.trackers import make_trackers
from medvlm.train.watch import Watch


def train(
    loaded: LoadedRecipe,
    runs: Path,
    only: str = "",
    again_from: str = "",
    counts_flops: bool = False,
    hooks: Sequence[Any] = (),
) -> RunFolder:
    """Trains all stages, or the one named `only`. again_from: sets this stage and all later ones aside, and trains them
    again. counts_flops: see train/flops.py. hooks: objects with functions of train/hooks.py, called beside those of the
    recipe.

    Raises Preempted after a clean save, and UserError for mistakes that the user can fix.
    """
    loaded.require_stages()
    loaded.require_data()
    names = [s.name for s in loaded.recipe.stages]
    for flag, name in (("--stage", only), ("--from", again_from)):
        if name and name not in names:
            raise RecipeError(f"{flag} {name}: there is no such stage (stages: {', '.join(names)})")
    require_local(runs)
    require_roots(loaded, runs)
    end_with_torchrun()
    engine = make_engine(loaded.recipe.engine)
    run = RunFolder(runs / loaded.recipe.name)
    with hold(run, engine) as check_lease:
        training = _begin(loaded, run, runs, engine, only, again_from, check_lease, hooks)
        for number, config in enumerate(loaded.recipe.stages, 1):
            begun = _begin_stage(training, config, number) if not only or config.name == only else None
            if begun is not None:
                place = replace(begun.place, counts_flops=counts_flops)
                state, proof = loop.run(begun.stage, begun.stage.config, engine, place, begun.fresh)
                _finish_stage(training, begun, state, proof)
                del begun, proof  # frees the model before the next one is built
            engine.release()
        cards = {name: card.model_dump(mode="json", by_alias=True) for name, card in loaded.cards.items()}
        track_training(run, training.log.trackers, cards, loaded.recipe.track.samples)
    return run


@dataclass(frozen=True)
class _Training:
    """A run whose stages are being trained. check_lease: raises if another process has taken over the folder."""

    loaded: LoadedRecipe
    run: RunFolder
    engine: Engine
    sources: dict[str, OpenSource]
    assemblies: dict[str, Assembly]
    log: Log
    check_lease: Callable[[], None]


@dataclass(frozen=True)
class _Begun:
    """A stage with its starting weights, placed on its devices. started: module -> the origin of its weights.
    teachers: see describe_teachers(). parameters: module -> its number of parameters. scales: see describe_scales(), of
    the first rank."""

    stage: Any
    place: loop.Place
    fresh: loop.State
    started: dict[str, str]
    teachers: dict[str, str]
    parameters: dict[str, int]
    scales: list[str]


def _begin(
    loaded: LoadedRecipe,
    run: RunFolder,
    runs: Path,
    engine: Engine,
    only: str,
    again_from: str,
    check_lease: Callable[[], None],
    hooks: Sequence[Any],
) -> _Training:
    """Opens the data and saves the recipe. Raises RecipeError for a later stage that could not be trained."""
    recipe = loaded.recipe
    names = [s.name for s in recipe.stages]
    write_status(run, engine, "running")
    if engine.is_first:
        run.stalled.unlink(missing_ok=True)
    sources = open_sources(loaded, runs, say=Live() if engine.is_first else lambda _: None)
    again = names[names.index(again_from) :] if again_from else []
    unfinished = [i for i, name in enumerate(names) if name in again or not run.is_finished(name)]
    left = [names.index(only)] if only else unfinished
    require_samples(recipe, sources, left)
    if left:
        require_evaluation(recipe, sources)
    if engine.is_first:
        recognise(loaded, sources, run)
        loaded.save(run.root)
        for name in again:
            _set_aside(run.stage(name))
        if again_from == names[0]:  # no stage is left that was trained with the old tokenizer
            _set_aside(run.tokenizer)
    engine.barrier()
    if len(left) > 1 and (unchecked := check_stages(recipe, left[1:])) and engine.is_first:
        print(f"later stages were not checked in advance: {unchecked}", flush=True)
    _require_tokenizers(run, recipe.stages)
    assemblies = _assemble_all(loaded, run, engine, sources)
    trackers = make_trackers(recipe.track, loaded.resolve(), recipe.name, run.root) if engine.is_first else []
    called = collect_hooks([*map(import_module, recipe.hooks), *hooks])
    log = Log(run.metrics, engine.is_first, trackers, called)
    return _Training(loaded, run, engine, sources, assemblies, log, check_lease)


def _begin_stage(training: _Training, config: StageConfig, number: int) -> _Begun | None:
    """None for a finished stage. Raises CheckpointError if it was trained with other settings."""
    loaded, run, engine, sources = training.loaded, training.run, training.engine, training.sources
    recipe, title = loaded.recipe, f"stage {number}/{len(loaded.recipe.stages)} {config.name}"
    starts = find_starts(config, number - 1, loaded, run)
    identity = identify(config, loaded, sources, starts)
    aliases = find_aliases(run, config.name, identity)
    if run.is_finished(config.name):
        if read_record(run.stage(config.name))["identity"] not in (identity, *aliases):
            raise CheckpointError(
                f"stage {config.name} is finished, but its settings, data or starting weights have changed since; "
                f"train it and all later stages again with --from {config.name}, or give the recipe another name"
            )
        if engine.is_first:
            print(f"{title}: already finished, reused", flush=True)
        return None
    setup = _make_setup(config, training.assemblies, loaded, run, engine, sources)
    stage, began = build_stage(config, setup, starts)
    config = stage.config
    set_trained(stage.model, config.trains, config.name)
    parameters = count_parameters(stage.model)
    engine.place(stage.model, stage.matches, make_extra_models(stage))
    stage.begin()
    # Dropout must depend on stage and rank only, not on what this process did before, so that a run that is
    # interrupted before its first checkpoint repeats the same numbers.
    torch.manual_seed(draw_below(1 << 63, recipe.seed, config.name, "dropout", engine.rank))
    teachers = describe_teachers(config)
    meta = {
        "stage": config.name,
        "steps": config.steps,
        "medvlm": __version__,
        "code": hash_code(),
        "recipe": loaded.recipe_hash,
        "adapters": began.adapters and began.adapters.model_dump(mode="json"),
        "tokenizer": hash_files(run.tokenizer),
        "texts": hash_texts(config),
        "from": began.started,
        "teachers": teachers,
        "published": began.unchanged,
        "sources": {name: sources[name].shards.fingerprint for name in config.mix},
        "audits": {name: sources[name].audit["hash"] for name in config.mix if sources[name].audit},
    }
    scales: list[str] = []
    if engine.is_first:
        print(f"{title} ({config.kind}): {config.length} samples", flush=True)
        scales = describe_trained(recipe, setup.prepare, [sources[name].view("train") for name in config.mix])
        for line in scales:
            if line.startswith(WARNING):
                print(line, flush=True)
    place = _make_place(training, config, number, aliases)
    return _Begun(stage, place, loop.State(identity=identity, meta=meta), began.started, teachers, parameters, scales)


def _make_place(training: _Training, config: StageConfig, number: int, aliases: tuple[str, ...]) -> loop.Place:
    run, engine, recipe = training.run, training.engine, training.loaded.recipe

    def say_stalled(why: str) -> None:
        write_json(run.status, {"status": "stalled", "reason": why})

    watch = Watch(run.stalled, engine.rank, engine.world, recipe.engine.stall_s, ended=say_stalled)
    folder, stages = run.stage(config.name), len(recipe.stages)
    return loop.Place(folder, training.log, watch, number, stages, training.check_lease, aliases)


def _finish_stage(training: _Training, begun: _Begun, state: loop.State, proof: Proof) -> None:
    """Checks that frozen parameters are unchanged, and writes stage.json, which marks the stage as finished."""
    engine, config, folder = training.engine, begun.stage.config, begun.place.folder
    frozen = proof.check_frozen()
    if engine.is_first:
        take = f"step-{state.best_step if config.keep == 'best' else state.step}"
        moved = proof.count_trained().keys() - state.waiting if state.proven else set[str]()
        trained = {group: {"parameters": n, "moved": group in moved} for group, n in proof.count_trained().items()}
        record = {
            "name": config.name,
            "kind": config.kind,
            "finished": True,
            "step": state.step,
            "steps": config.steps,
            "identity": state.identity,
            "take": take,
            "trains": trained,
            "frozen": frozen,
            "from": begun.started,
            "teachers": begun.teachers,
            "seconds": state.seconds,
            "checkpoint": checkpoint.digest(folder / take),
            "parameters": begun.parameters,
            "scales": begun.scales,
            "environment": describe_environment(),
        }
        write_json(folder / "stage.json", record)
        write_lineage(training.loaded, training.run, training.sources)
    engine.barrier()


def _require_tokenizers(run: RunFolder, stages: Sequence[StageConfig]) -> None:
    """Raises CheckpointError if a tokenizer or the processor has changed since a stage was trained or saved with it."""
    for stage in stages:
        for path in sorted(run.stage(stage.name).glob("step-*/state.json")):
            with suppress(OSError, ValueError, TypeError, KeyError):  # a damaged checkpoint is set aside later
                meta = json.loads(path.read_text(encoding="utf-8"))["meta"]
                require_tokenizer(run, stage.name, meta)
                require_texts(stage, meta)


def _assemble_all(
    loaded: LoadedRecipe, run: RunFolder, engine: Engine, sources: dict[str, OpenSource]
) -> dict[str, Assembly]:
    """Assemblies by composition, see assemble(). The first rank makes what is missing in the run folder, the others
    load it."""

    def train(size: int) -> Any:
        assert engine.is_first, "the first rank makes the tokenizer"
        return train_tokenizer(collect_texts(sources), size, IMAGE)

    made = assemble(loaded.recipe, run.tokenizer, train) if engine.is_first else None
    engine.barrier()
    return made or assemble(loaded.recipe, run.tokenizer, train)


def _make_setup(
    config: StageConfig,
    assemblies: dict[str, Assembly],
    loaded: LoadedRecipe,
    run: RunFolder,
    engine: Engine,
    sources: dict[str, OpenSource],
) -> Setup:
    recipe = loaded.recipe
    composition = composition_of_stage(recipe.model, config)

    def quarantine(key: str, shard: str, reason: str) -> None:
        with run.quarantine.open("a") as file:
            file.write(
                json.dumps({"key": key, "shard": Path(shard).name, "reason": reason, "rank": engine.rank}) + "\n"
            )

    assembly = train_with_context(assemblies[name_of(composition)].limit(config.max_pixels), recipe.context)
    return Setup(
        **vars(assembly),
        composition=composition,
        open_source=lambda name, split, wants: sources[name].view(split, wants),
        augments={name: s.augment and s.augment.bind(assembly.prepare, name) for name, s in recipe.data.items()},
        orders={name: s.order for name, s in recipe.data.items()},
        engine=engine,
        workers=recipe.engine.workers,
        quarantine=quarantine,
        folder=run.stage(config.name),
        environment=recipe.environment,
    )


def _set_aside(folder: Path) -> None:
    if not folder.exists():
        return
    asides = (folder.with_name(f"{folder.name}.old-{number}") for number in count(1))
    shutil.move(folder, next(aside for aside in asides if not aside.exists()))
