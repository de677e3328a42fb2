"""`medvlm evaluate`: evaluates a run on the splits that its recipe or the user names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medvlm.compositions._open import open_run
from medvlm.compositions._opened import find
from medvlm.core.document import Document
from medvlm.core.errors import RecipeError, did_you_mean, list_some
from medvlm.core.live import Live
from medvlm.core.problems import validate
from medvlm.core.protocols import find_protocol, read_protocols
from medvlm.core.run import RunFolder
from medvlm.evaluate.ranks import find_rank, join_ranks
from medvlm.evaluate.run import evaluate as evaluate_split
from medvlm.evaluate.run import ignore_progress, say_nothing
from medvlm.recipe.load import load_run
from medvlm.recipe.schema import Evaluate
from medvlm.recipe.sources import open_sources
from medvlm.train.stopping import raise_on_signal

STOPPED = "evaluation was stopped; what was answered is kept; run the same command again to go on"


def evaluate(run_folder: Path, on: Sequence[str] = (), stage: str = "") -> list[Any]:
    """The rows of results.json that this call measured; under torchrun, none but in the first process. Raises Preempted
    after a signal; splits that were not finished keep the results that they had."""
    with raise_on_signal(STOPPED):
        return _evaluate(run_folder, on, stage)


def _evaluate(run_folder: Path, on: Sequence[str], stage: str) -> list[Any]:
    run, loaded = RunFolder(run_folder), load_run(run_folder)
    recipe = loaded.recipe
    asked = _read_places(on) if on else recipe.evaluate.pairs()
    if not asked:
        raise RecipeError("evaluate.on is empty; choose what to evaluate on with --on SOURCE:SPLIT")
    for name, _ in asked:
        if name not in recipe.data:
            raise RecipeError(
                f"--on {name}: there is no such source{did_you_mean(name, recipe.data)} (sources:"
                f" {list_some(recipe.data)})"
            )
    with join_ranks(recipe.engine.device) as device:
        is_first = find_rank()[0] == 0
        say = print if is_first else say_nothing
        sources = open_sources(loaded, run_folder.parent, say=Live() if is_first else say_nothing)
        models = open_run(recipe, run_folder, stage, device, recipe.evaluate.max_new_tokens)
        settings, rows = recipe.evaluate, []
        for config in read_protocols(settings.protocols) if settings.protocols else ():
            need = find_protocol(config).NEEDS
            if find(models, need) is None:
                say(f"evaluate: skipped {config.kind}, because the model cannot {need}")
        for name, split in asked:
            source = sources[name]
            rows += evaluate_split(
                models,
                source.shards,
                dataset=source.card.name,
                split=split,
                places=source.locate_samples(split),
                training=partial(source.locate_samples, "train"),
                out=run,
                protocols=settings.protocols,
                baselines=settings.baselines,
                rewards=find_rewards(recipe.stages),
                limit=settings.samples,
                resamples=settings.bootstrap,
                seed=recipe.seed,
                progress=EvaluateProgress() if is_first else ignore_progress,
                say=say,
            )
    return rows


def _read_places(on: Sequence[str]) -> list[tuple[str, str]]:
    """(source, split) of each SOURCE:SPLIT. Raises RecipeError for what is no split."""
    evaluate: Evaluate = validate(Evaluate, Document({"on": list(on)}, {(): ("command line", 0, 0)}))
    return evaluate.pairs()


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
