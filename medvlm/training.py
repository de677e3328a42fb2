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
from medvlm.answers.boxes import Writing
from medvlm.core.config import component
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder, code_hash, write_json
from medvlm.core.stage_config import StageConfig
from medvlm.data.dialogue import Dialogue
from medvlm.data.native import Processor, make_native_prepare
from medvlm.data.order import below
from medvlm.data.prepare import Prepare, make_prepare
from medvlm.data.vocabulary import IMAGE, saved_tokenizer, train_tokenizer
from medvlm.models.parts import module_of, preprocess_of, set_trained, tokens_of
from medvlm.models.restore import modules_of
from medvlm.preflight.staging import check_stages
from medvlm.recipe import LoadedRecipe
from medvlm.sources import OpenSource, open_sources, texts_of
from medvlm.stages._base import Setup
from medvlm.starts import identity_of, origins_of, put_start
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
    setup = _setup(loaded, run, engine, sources)
    log = Log(
        run.metrics,
        engine.is_first,
        make_trackers(recipe.track, loaded.resolve(), recipe.name, run.root) if engine.is_first else [],
    )
    for number, config in enumerate(recipe.stages, 1):
        if only and config.name != only:
            continue
        _stage(config, number, loaded, run, engine, sources, setup, log, lease)
        engine.release()


def _stage(
    config: StageConfig,
    number: int,
    loaded: LoadedRecipe,
    run: RunFolder,
    engine: Engine,
    sources: dict[str, OpenSource],
    setup: Setup,
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
    stage = component("stages", config.kind).build(config, setup)
    started, adapters = put_start(stage.model, config, origins, run, loaded.recipe.seed)
    set_trained(stage.model, config.trains, config.name)
    modules = {
        m: sum(p.numel() for n, p in stage.model.named_parameters() if module_of(n) == m)
        for m in modules_of([n for n, _ in stage.model.named_parameters()])
    }
    engine.place(stage.model, stage.matches)
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
    state, proof = loop.run(
        stage,
        config,
        engine,
        folder,
        log,
        fresh,
        number,
        len(loaded.recipe.stages),
        watch,
        lease.check if lease else _nothing,
    )
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


def _setup(loaded: LoadedRecipe, run: RunFolder, engine: Engine, sources: dict[str, OpenSource]) -> Setup:
    recipe = loaded.recipe
    tokenizer, image_token, prepare = _prepare(loaded, run, engine, sources)

    def quarantine(key: str, shard: str, reason: str) -> None:
        with run.quarantine.open("a") as file:
            file.write(
                json.dumps({"key": key, "shard": Path(shard).name, "reason": reason, "rank": engine.rank}) + "\n"
            )

    return Setup(
        seed=recipe.seed,
        encoders=recipe.model.encoders,
        language=recipe.model.language,
        tokenizer=tokenizer,
        image_token=image_token,
        prepare=prepare,
        pretrained=recipe.model.pretrained,
        open_source=lambda name, split, wants: sources[name].view(split, wants),
        augments={name: s.augment for name, s in recipe.data.items()},
        orders={name: s.order for name, s in recipe.data.items()},
        engine=engine,
        workers=recipe.engine.workers,
        quarantine=quarantine,
    )


def _prepare(
    loaded: LoadedRecipe, run: RunFolder, engine: Engine, sources: dict[str, OpenSource]
) -> tuple[Any, str, Prepare]:
    """Tokenizer, image token, and how samples become what the model takes. A ready model's processor is kept in the
    run's folder."""
    model = loaded.recipe.model
    if model.pretrained:
        if engine.is_first:
            Processor.of_run(model.pretrained, model.processor, run.tokenizer)
        engine.barrier()
        processor = Processor(run.tokenizer)
        return (
            processor.tokenizer,
            processor.soft,
            make_native_prepare(processor, model.views, model.boxes.codec, model.boxes.scale),
        )
    tokenizer, image_token = _tokenizer(loaded, run, engine, sources)
    dialogue = Dialogue(tokenizer, image_token) if model.language else None
    writing = Writing(model.boxes.codec or "thousandths", model.boxes.scale)
    return (
        tokenizer,
        image_token,
        make_prepare(model.encoders, preprocess_of(model.encoders), tokens_of(model.encoders), dialogue, writing),
    )


def _tokenizer(loaded: LoadedRecipe, run: RunFolder, engine: Engine, sources: dict[str, OpenSource]) -> tuple[Any, str]:
    """The run's tokenizer and its image token ("" without a language model): the language model's, or one trained from
    the cards' text. None where every text tower brings its own."""
    recipe = loaded.recipe

    def trained(size: int) -> Any:
        assert engine.is_first, "the first rank makes the tokenizer"
        return train_tokenizer(texts_of(sources), size, IMAGE)

    def make() -> Any:
        if recipe.model.language:
            return component("backbones", recipe.model.language.kind).tokenizer(
                recipe.model.language, trained, run.tokenizer
            )
        towers = [s.text for s in recipe.stages if getattr(s, "text", None) and not s.text.model]
        return saved_tokenizer(run.tokenizer, lambda: trained(towers[0].vocabulary)) if towers else None

    made = make() if engine.is_first else None
    engine.barrier()
    made = made or make()
    return made, made.image_token if recipe.model.language else ""


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
