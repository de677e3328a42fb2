"""The runs that tell whether reinforcement helped: their recipes, made from that of the run in question."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm.commands.who import find_who
from medvlm.core.config import component, kinds
from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.protocols import find_protocol, list_baselines, read_protocols
from medvlm.core.run import RunFolder, read_record
from medvlm.evaluate.protocols._rows import BLIND, SHUFFLED
from medvlm.evaluate.reinforcement import CONTROL, REINFORCED
from medvlm.evaluate.saved import SETTINGS, read_saved
from medvlm.export.proof.parity import OURS
from medvlm.recipe.load import LoadedRecipe, load_plain, load_run
from medvlm.recipe.sources import add_secret, locate_shards

SETTABLE = re.compile(rf"(evaluate|engine)\.|stages\.({REINFORCED}|{CONTROL})\.")


@dataclass(frozen=True)
class Trial:
    """What is tried. stage: the one with rewards. start: the stage that it starts from. pattern: the last stage up to
    there that trains on right answers; the control has its settings where `stage` has none. pairs: (source, split) to
    evaluate on. folder: of the arms."""

    loaded: LoadedRecipe
    run: RunFolder
    stage: Any
    start: str
    pattern: Any
    pairs: list[tuple[str, str]]
    seeds: int
    folder: Path
    overrides: Sequence[str]

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        return tuple(self.stage.find_needs(self.loaded.recipe.model).tasks or ())

    def name_arms(self, arm: str) -> dict[str, int]:
        """Name of each run of an arm -> its seed, other than that of the run."""
        return {f"{arm}-{number}": self.loaded.recipe.seed + number for number in range(1, self.seeds + 1)}


def plan_trial(
    run: RunFolder, stage: str, seeds: int, on: Sequence[str], overrides: Sequence[str], folder: Path
) -> Trial:
    """Creates nothing. stage: "" for the last one with rewards.

    Raises RecipeError for a run without such a stage, or without a finished stage before it."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RecipeError("rl-helps: runs in one process; start it without torchrun")
    if seeds < 1:
        raise RecipeError(f"--seeds {seeds}: expected at least 1")
    for override in overrides:
        if not SETTABLE.match(override):
            raise RecipeError(
                f"{override}: only evaluate.*, engine.*, stages.{REINFORCED}.* and stages.{CONTROL}.* can be set"
            )
    loaded = load_run(run.root)
    if RunFolder(folder).recipe.is_file():
        raise RecipeError(f"--to {folder}: is a run, and the trial has runs of its own; name another folder")
    stages = list(loaded.recipe.stages)
    at = _find_reinforced(run, stages, stage)
    start = _find_start(run, stages, at)
    need = component("stages", stages[at].kind).NEEDS
    patterns = [s for s in stages[:at] if not s.list_rewards() and need == component("stages", s.kind).NEEDS]
    if not patterns:
        raise RecipeError(
            f"{run.root}: no stage before {stages[at].name} trains on right answers, so there is nothing that the"
            " control could do more of"
        )
    loaded.require_data()
    pairs = find_who(str(run.root), on, (), run.root.parent).pairs
    return Trial(loaded, run, stages[at], start, patterns[-1], pairs, seeds, folder, overrides)


def _find_reinforced(run: RunFolder, stages: Sequence[Any], name: str) -> int:
    found = [n for n, stage in enumerate(stages) if stage.list_rewards() and name in ("", stage.name)]
    if found:
        return found[-1]
    names = [stage.name for stage in stages]
    if name and name not in names:
        raise RecipeError(
            f"--stage {name}: there is no such stage{did_you_mean(name, names)} (stages: {', '.join(names)})"
        )
    raise RecipeError(f"{run.root}: {f'stage {name} is not' if name else 'no stage is'} trained with rewards")


def _find_start(run: RunFolder, stages: Sequence[Any], at: int) -> str:
    before, given = [stage.name for stage in stages[:at]], stages[at].from_
    if not before or (given and given not in before):
        raise RecipeError(
            f"{run.root}: stage {stages[at].name} does not start from an earlier stage of this run; rl-helps compares"
            " it with more training of such a stage"
        )
    start = str(given or before[-1])
    if not run.is_finished(start):
        raise RecipeError(f"{run.root}: stage {start} is not finished; run: medvlm train RECIPE --stage {start}")
    return start


def make_arm_recipe(trial: Trial, arm: str, name: str, seed: int, steps: int = 0) -> LoadedRecipe:
    """The recipe of a run that trains one arm. steps: of the control."""
    loaded = trial.loaded
    plain = loaded.resolve()
    names = [stage["name"] for stage in plain["stages"]]
    stage = plain["stages"][names.index(trial.stage.name)]
    if arm == CONTROL:
        pattern = plain["stages"][names.index(trial.pattern.name)]
        same = {key: value for key, value in stage.items() if key in pattern and key != "kind"}
        stage = {**pattern, **same, "steps": steps, "epochs": None}
    stage = {**stage, "name": arm, "from": f"{trial.run.root.resolve()}:{trial.start}"}
    need = component("stages", stage["kind"]).NEEDS
    protocols = [each for each in read_protocols(loaded.recipe.evaluate.protocols) if need == find_protocol(each).NEEDS]
    baselines = [each for each in (BLIND, SHUFFLED) if each in list_baselines(protocols)]
    used = {*stage["mix"], *(source for source, _ in trial.pairs)}
    evaluate = {
        **plain["evaluate"],
        "on": [f"{source}:{split}" for source, split in trial.pairs],
        "protocols": [each.model_dump(mode="json") for each in protocols],
        "baselines": baselines,
    }
    recipe = {key: value for key, value in plain.items() if key != "track"}
    holds_all = next(k for k in kinds("export.targets") if component("export.targets", k).LOADER == OURS)
    recipe |= {"name": name, "seed": seed, "stages": [stage], "evaluate": evaluate, "export": {"target": holds_all}}
    recipe["data"] = {
        source: _locate(trial, source, entry) for source, entry in plain["data"].items() if source in used
    }
    other = REINFORCED if arm == CONTROL else CONTROL
    overrides = [override for override in trial.overrides if not override.startswith(f"stages.{other}.")]
    return load_plain(recipe, overrides)


def _locate(trial: Trial, source: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Where the data of the run are: its shards, if they are there."""
    given = trial.loaded.recipe.data[source]
    places = trial.loaded.list_places()[source]
    shards = locate_shards(add_secret(trial.loaded.cards[source], given), given, trial.run.root.parent)
    if not given.shards and shards.is_dir():
        places = {**{key: where for key, where in places.items() if key != "root"}, "shards": str(shards.resolve())}
    return {**entry, **places, "card": str(trial.loaded.card_paths[source].resolve())}


def list_unevaluated(run: RunFolder, out: RunFolder, loaded: LoadedRecipe) -> list[tuple[str, str]]:
    """The (source, split) of the recipe whose answers in `out` are missing, or not of the checkpoints of this run."""
    pairs = loaded.recipe.evaluate.pairs()
    if not out.results.is_file() or not (out.answers.parent / SETTINGS).is_file():
        return pairs
    digests = {read_record(run.stage(name))["checkpoint"] for name in run.list_finished()}
    done = {
        (saved.dataset, saved.split)
        for saved in read_saved(out.answers.parent)
        if {of.get("checkpoint") for of in saved.settings.get("models", {}).values()} <= digests
    }
    return [(source, split) for source, split in pairs if (loaded.cards[source].name, split) not in done]
