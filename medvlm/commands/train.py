"""Runs the stages of a recipe in order: reuses what is finished, resumes what is not, hands weights on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from medvlm import __version__
from medvlm.commands.initial_weights import identity_of, origins_of, put_start
from medvlm.compositions._assemble import assemble
from medvlm.core.composition import Assembly, composition_of_stage, name_of
from medvlm.core.config import component
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder, code_hash, write_json
from medvlm.core.stage_config import StageConfig
from medvlm.data.order import below
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.models.parts import module_of, set_trained
from medvlm.models.restore import modules_of
from medvlm.preflight.staging import check_stages
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.sources import OpenSource, open_sources, texts_of
from medvlm.stages._base import Setup
from medvlm.train import checkpoint, loop
from medvlm.train.engine import Engine
from medvlm.train.engines import make_engine
from medvlm.train.lease import Lease
from medvlm.train.log import Log, make_trackers
from medvlm.train.stopping import Preempted, end_with_torchrun, preemptible
from medvlm.train.watch import Watch


def train(loaded: LoadedRecipe, runs: Path, only: str = "", again_from: str = "") -> RunFolder:
    """All stages, or the one named `only`; `again_from` sets that stage and the later ones aside and trains them anew.

    Raises Preempted after a clean save; UserError for whatever the user can mend.
    """
    loaded.require_data()
    end_with_torchrun()
    engine = make_engine(loaded.recipe.engine)
    run = RunFolder(runs / loaded.recipe.name)
    with Lease(run.root) if engine.is_first else nullcontext() as lease:
        try:
            with preemptible(), _said_when_full(run):
                _train(loaded, run, runs, engine, only, again_from, lease)
        except Preempted:
            _status(run, engine, "preempted")
            raise
        except BaseException as reason:
            if (
                not run.stalled.exists()
            ):  # then the status says so already, and what is raised here only follows from it
                _status(run, engine, "failed", type(reason).__name__)
            raise
        _status(run, engine, "done")
    return run


def _train(
    loaded: LoadedRecipe, run: RunFolder, runs: Path, engine: Engine, only: str, again_from: str, lease: Lease | None
) -> None:
    recipe = loaded.recipe
    names = [s.name for s in recipe.stages]
    for flag, name in (("--stage", only), ("--from", again_from)):
        if name and name not in names:
            raise RecipeError(f"{flag} {name}: there is no such stage (stages: {', '.join(names)})")
    _status(run, engine, "running")
    if engine.is_first:
        run.stalled.unlink(missing_ok=True)
    sources = open_sources(loaded, runs, say=print if engine.is_first else lambda _: None)
    if engine.is_first:
        loaded.save(run.root)
        for name in names[names.index(again_from) :] if again_from else []:
            _set_aside(run.stage(name))
        if again_from == names[0]:  # nothing that was trained is left that needs the old one
            _set_aside(run.tokenizer)
    later = [
        i for i, stage in enumerate(recipe.stages) if not only and not (run.stage(stage.name) / "stage.json").exists()
    ][1:]
    if later and (unchecked := check_stages(recipe, later)) and engine.is_first:
        print(f"what later stages train was not checked beforehand: {unchecked}", flush=True)
    assemblies = _assemblies(loaded, run, engine, sources)
    log = Log(
        run.metrics,
        engine.is_first,
        make_trackers(recipe.track, loaded.resolve(), recipe.name, run.root) if engine.is_first else [],
    )
    for number, config in enumerate(recipe.stages, 1):
        if only and config.name != only:
            continue
        _stage(config, number, loaded, run, engine, sources, assemblies, log, lease)
        engine.release()


def _stage(
    config: StageConfig,
    number: int,
    loaded: LoadedRecipe,
    run: RunFolder,
    engine: Engine,
    sources: dict[str, OpenSource],
    assemblies: dict[str, Assembly],
    log: Log,
    lease: Lease | None,
) -> None:
    folder, origins = run.stage(config.name), origins_of(config, number - 1, loaded, run)
    identity = identity_of(config, loaded, sources, run, origins)
    if (folder / "stage.json").exists():
        if json.loads((folder / "stage.json").read_text())["identity"] != identity:
            raise CheckpointError(
                f"stage {config.name} is finished, but its settings, data or starting weights have changed since; "
                f"train it and what follows again with --from {config.name}, or give the recipe another name"
            )
        if engine.is_first:
            print(f"stage {number}/{len(loaded.recipe.stages)} {config.name}: finished before, reused", flush=True)
        return
    setup = _setup(config, assemblies, loaded, run, engine, sources)
    stage = component("stages", config.kind).build(config, setup)
    started, adapters = put_start(stage.model, config, origins, run, loaded.recipe.seed)
    set_trained(stage.model, config.trains, config.name)
    modules = {
        m: sum(p.numel() for n, p in stage.model.named_parameters() if module_of(n) == m)
        for m in modules_of([n for n, _ in stage.model.named_parameters()])
    }
    engine.place(stage.model, stage.matches, stage.extra_models())
    stage.begin()
    # Dropout depends on stage and rank, not on what this process did before: a run that is cut off before its first
    # checkpoint starts the same.
    torch.manual_seed(below(1 << 63, loaded.recipe.seed, config.name, "dropout", engine.rank))
    meta = {
        "stage": config.name,
        "medvlm": __version__,
        "code": code_hash(),
        "recipe": loaded.recipe_hash,
        "adapters": adapters and adapters.model_dump(mode="json"),
        "from": started,
        "sources": {name: sources[name].shards.fingerprint for name in config.mix},
        "audits": {name: sources[name].audit["hash"] for name in config.mix if sources[name].audit},
    }
    fresh = loop.State(identity=identity, meta=meta)
    if engine.is_first:
        print(
            f"stage {number}/{len(loaded.recipe.stages)} {config.name} ({config.kind}): {config.steps} steps of"
            f" {config.batch} samples",
            flush=True,
        )
    watch = Watch(
        run.stalled,
        engine.rank,
        engine.world,
        loaded.recipe.engine.stall_s,
        ended=lambda why: write_json(run.status, {"status": "stalled", "reason": why}),
    )
    place = loop.Place(folder, log, watch, number, len(loaded.recipe.stages), lease.check if lease else _nothing)
    state, proof = loop.run(stage, config, engine, place, fresh)
    frozen = proof.check_frozen()
    if not engine.is_first:
        engine.barrier()
        return
    take = f"step-{state.best_step if config.keep == 'best' else state.step}"
    trained = {group: {"parameters": n, "moved": state.proven} for group, n in proof.trained_counts().items()}
    write_json(
        folder / "stage.json",
        {
            "name": config.name,
            "kind": config.kind,
            "finished": True,
            "step": state.step,
            "identity": identity,
            "take": take,
            "trains": trained,
            "frozen": frozen,
            "from": started,
            "seconds": state.seconds,
            "checkpoint": checkpoint.digest(folder / take),
            "parameters": modules,
        },
    )
    _lineage(loaded, run, sources)
    engine.barrier()


def _assemblies(
    loaded: LoadedRecipe, run: RunFolder, engine: Engine, sources: dict[str, OpenSource]
) -> dict[str, Assembly]:
    """By composition, see assemble(). The first rank makes what the run's folder lacks, the others load it."""

    def train(size: int) -> Any:
        assert engine.is_first, "the first rank makes the tokenizer"
        return train_tokenizer(texts_of(sources), size, IMAGE)

    made = assemble(loaded.recipe, run.tokenizer, train) if engine.is_first else None
    engine.barrier()
    return made or assemble(loaded.recipe, run.tokenizer, train)


def _setup(
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

    return Setup(
        **vars(assemblies[name_of(composition)]),
        composition=composition,
        open_source=lambda name, split, wants: sources[name].view(split, wants),
        augments={name: s.augment for name, s in recipe.data.items()},
        orders={name: s.order for name, s in recipe.data.items()},
        engine=engine,
        workers=recipe.engine.workers,
        quarantine=quarantine,
    )


def _lineage(loaded: LoadedRecipe, run: RunFolder, sources: dict[str, OpenSource]) -> None:
    """What came from what, for report, model card and checkpoint readers."""
    finished = [s.name for s in loaded.recipe.stages if (run.stage(s.name) / "stage.json").exists()]
    records = {name: json.loads((run.stage(name) / "stage.json").read_text()) for name in finished}
    write_json(
        run.lineage,
        {
            "recipe": loaded.recipe_hash,
            "medvlm": __version__,
            "sources": {name: s.describe() for name, s in sources.items()},
            "model": {"parameters": {m: n for record in records.values() for m, n in record["parameters"].items()}},
            "stages": {
                name: {"from": r["from"], "checkpoint": f"{name}/{r['take']}@{r['checkpoint']}"}
                for name, r in records.items()
            },
        },
    )


@contextmanager
def _said_when_full(run: RunFolder) -> Iterator[None]:
    """A full disk is nothing that a traceback would explain."""
    try:
        yield
    except OSError as reason:
        if reason.errno not in checkpoint.FULL:
            raise
        raise CheckpointError(
            f"{run.root.name}: the disk is full or a quota is used up; make room and run the same command again"
        ) from reason


def _status(run: RunFolder, engine: Engine, status: str, reason: str = "") -> None:
    if not engine.is_first:
        return
    said = {"status": status, "reason": reason, "pid": os.getpid(), "job": os.environ.get("TORCHELASTIC_RUN_ID", "")}
    try:
        write_json(run.status, said)
    except OSError:
        if status == "running":
            raise
        run.status.write_text(json.dumps(said))  # on a full disk there is still the room that the old one takes


def _nothing() -> None:
    pass


def _set_aside(folder: Path) -> None:
    if not folder.exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    shutil.move(folder, aside)
