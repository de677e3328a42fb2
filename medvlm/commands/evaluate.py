"""`medvlm evaluate`: evaluates a run, or a model as it is, on the splits that its recipe or the user names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from medvlm.commands.lineage import write_lineage
from medvlm.commands.who import Who, find_who
from medvlm.compositions._open import open_judge, open_run, open_start
from medvlm.compositions._opened import find
from medvlm.core.errors import RecipeError
from medvlm.core.live import Live
from medvlm.core.protocols import Judging, ProtocolConfig, Row, find_protocol, ignore_progress, read_protocols
from medvlm.core.run import RunFolder
from medvlm.core.weights import find_published
from medvlm.data.source import HELD_OUT
from medvlm.evaluate.judge import Judge
from medvlm.evaluate.meteor import Meteor
from medvlm.evaluate.radeval import RadEval
from medvlm.evaluate.ranks import find_rank, join_ranks
from medvlm.evaluate.run import evaluate as evaluate_split
from medvlm.evaluate.run import say_nothing
from medvlm.recipe.sources import OpenSource, open_sources
from medvlm.report.tracked import track_results
from medvlm.train.stopping import raise_on_signal
from medvlm.train.trackers import make_trackers

START = "start"
"""The folder of a run for the results of the model that it started from."""
STOPPED = "evaluation was stopped; what was answered is kept; run the same command again to continue"


def evaluate(
    who: str | Path,
    on: Sequence[str] = (),
    stage: str = "",
    overrides: Sequence[str] = (),
    runs: Path = Path("runs"),
    start: bool = False,
) -> list[Row]:
    """The rows of results.json that this call measured; under torchrun, none but in the first process. Raises Preempted
    after a signal; splits that were not finished keep the results that they had.

    who, on, overrides: see find_who(). runs: where the folder of a recipe without stages, or of a model, is made.
    start: evaluate the model that a run started from, in the folder `start` of the run."""
    with raise_on_signal(STOPPED):
        found = find_who(str(who), on, overrides, runs)
        if start and not found.loaded.recipe.stages:
            raise RecipeError(f"--start: {who} is evaluated as it is, so nothing was trained; leave it out")
        if start and START in {stage.name for stage in found.loaded.recipe.stages}:
            raise RecipeError(f"--start: the run has a stage {START!r}, whose folder it would use")
        return evaluate_found(found, stage, out=RunFolder(found.run.root / START) if start else None, start=start)


def evaluate_found(
    found: Who,
    stage: str = "",
    protocols: Sequence[ProtocolConfig] = (),
    out: RunFolder | None = None,
    start: bool = False,
) -> list[Row]:
    """protocols: by default those of the recipe, with its baselines. out: where the results are written, by default the
    folder of the run. start: evaluate the model before any training."""
    with join_ranks(found.loaded.recipe.engine.device) as device:
        return _evaluate(found, stage, device, protocols, out or found.run, start)


def _evaluate(
    found: Who, stage: str, device: str, protocols: Sequence[ProtocolConfig], out: RunFolder, start: bool
) -> list[Row]:
    loaded, recipe, run = found.loaded, found.loaded.recipe, found.run
    is_first = find_rank()[0] == 0
    say = print if is_first else say_nothing
    settings, models = recipe.evaluate, []
    how = (stage, device, settings.max_new_tokens, settings.precision)
    if settings.spread and find_rank()[1] > 1:
        raise RecipeError("evaluate.spread: one process spreads the model over all GPUs; start it without torchrun")
    if not recipe.stages:  # the folder is made for a model that there is
        models = open_run(recipe, run.root, *how)
    sources = open_sources(loaded, run.root.parent, say=Live() if is_first else say_nothing)
    if start:
        models = [open_start(recipe, run, *how)]
    elif recipe.stages:
        models = open_run(recipe, run.root, *how)
    elif is_first:
        loaded.save(run.root)
        write_lineage(loaded, run, sources)
    judges: list[Judging] = [*make_judge(settings.judge, device)]
    judges += [RadEval(settings.radeval)] if settings.radeval else []
    judges += [Meteor()] if settings.meteor else []
    rows = []
    asked = protocols or settings.protocols
    for config in read_protocols(asked) if asked else ():
        need = find_protocol(config).NEEDS
        if find(models, need) is None:
            say(f"evaluate: skipped {config.kind}, because the model cannot {need}")
    for name, split in found.pairs:
        source = sources[name]
        rows += evaluate_split(
            models,
            source.shards,
            dataset=source.card.name,
            split=split,
            places=source.locate_samples(split),
            training=partial(_locate_if_any, source, "train"),
            validation=partial(_locate_validation, source),
            find_split=partial(_locate, source),
            out=out,
            protocols=asked,
            baselines=None if protocols else settings.baselines,
            rewards=find_rewards(recipe.stages),
            groups=settings.groups,
            questions=settings.questions,
            judges=judges,
            scoring=source.card.scoring,
            limit=settings.samples,
            resamples=settings.bootstrap,
            seed=recipe.seed,
            recipe=loaded.recipe_hash,
            progress=EvaluateProgress() if is_first else ignore_progress,
            say=say,
        )
    if is_first and recipe.stages:
        trackers = make_trackers(recipe.track, loaded.resolve(), recipe.name, run.root)
        track_results(out, trackers, recipe.track.samples, f"{START}/" if start else "")
    return rows


def make_judge(settings: Any, device: str) -> list[Judge]:
    """[] without one. settings: `evaluate.judge` of a recipe. Weights are read once the judge is asked.

    Raises RecipeError for a model that cannot be found or reached."""
    if settings is None:
        return []
    where = settings.model.pretrained
    open_model = cache(partial(open_judge, settings.model, device, settings.max_new_tokens))
    try:
        origin = find_published(where) if where else open_model().find_origin()
    except OSError as reason:
        raise RecipeError(f"evaluate.judge.model: {where} cannot be read ({str(reason).splitlines()[0]})") from None
    identity = {**origin, "decoding": "greedy", "max_new_tokens": settings.max_new_tokens}
    return [Judge(open_model, identity, dict(settings.rubrics))]


def _locate(source: OpenSource, split: str) -> list[tuple[str, int]]:
    """[] for a split that the source does not have."""
    known = source.shards.splits if source.fold is None else ("train", "test")
    return source.locate_samples(split) if split in known or split == HELD_OUT else []


def _locate_validation(source: OpenSource) -> list[tuple[str, int]]:
    """[] for a source without a validation split, such as one with folds."""
    return _locate_if_any(source, "val") if source.fold is None else []


def _locate_if_any(source: OpenSource, split: str) -> list[tuple[str, int]]:
    """[] for a data set without this split, such as a benchmark that is only for testing."""
    return source.locate_samples(split) if source.fold is not None or split in source.shards.splits else []


def find_rewards(stages: Sequence[Any]) -> dict[str, Any]:
    """The rewards of the last stage that has some. Evaluation measures them too."""
    return next((rewards for stage in reversed(stages) if (rewards := stage.list_rewards())), {})


class EvaluateProgress:
    """Shows how many samples of a protocol are done; the line is removed at the end."""

    def __init__(self) -> None:
        self._live = Live()

    def __call__(self, what: str, done: int, total: int) -> None:
        self._live(f"evaluate: {what} {done}/{total}")
        if done == total:
            self._live.clear()
