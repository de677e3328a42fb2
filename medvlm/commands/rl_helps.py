"""`medvlm rl-helps`: whether reinforcement helped a run, measured against supervised training of equal compute.

For each of several seeds, the stage with rewards and a supervised control are trained from the stage before it. The
control sees the same data and questions, trains the same modules with the same optimizer, and gets at least as many
floating-point operations, those of drawing answers included (train/flops.py). What is done is not done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import mean
from typing import TypedDict

from medvlm.commands.arms import Trial, list_unevaluated, make_arm_recipe, plan_trial
from medvlm.commands.evaluate import STOPPED, evaluate_found
from medvlm.commands.train import train
from medvlm.commands.who import Who
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder, read_record, write_json
from medvlm.core.stored import read_object
from medvlm.evaluate.compare import compare
from medvlm.evaluate.reinforcement import BEFORE, CONTROL, REINFORCED, SEEDS, Judgement, describe, judge
from medvlm.evaluate.saved import read_saved
from medvlm.recipe.load import LoadedRecipe
from medvlm.report.reinforcement import write_judgement
from medvlm.train.flops import list_flops
from medvlm.train.stopping import raise_on_signal

FOLDER_NAME, PROBE, COMPUTE, RESULT, PAGE = "rl-helps", "probe", "compute.json", "result.json", "rl-helps.html"
PROBE_STEPS = 10
"""Steps of the control that are counted before its length is chosen. Their median counts, since checks make some of the
first steps dearer."""


def plan(
    run: Path,
    on: Sequence[str] = (),
    stage: str = "",
    seeds: int = SEEDS,
    overrides: Sequence[str] = (),
    to: Path | None = None,
) -> Trial:
    """What rl_helps() does with these arguments. Creates nothing."""
    return plan_trial(RunFolder(run), stage, seeds, on, overrides, to or run / FOLDER_NAME)


def rl_helps(trial: Trial, say: Callable[[str], None] = print) -> Judgement:
    """Trains and evaluates what is missing. Writes result.json and rl-helps.html to the folder of the trial.

    Raises Preempted after a signal, and RecipeError if the folder has runs of other settings."""
    with raise_on_signal(STOPPED):
        runs = {BEFORE: [RunFolder(trial.folder / BEFORE)], REINFORCED: [], CONTROL: []}
        recipes = {
            name: make_arm_recipe(trial, REINFORCED, name, seed) for name, seed in trial.name_arms(REINFORCED).items()
        }
        _require_same(trial, recipes)
        for name, recipe in recipes.items():
            say(f"rl-helps: {name}")
            runs[REINFORCED].append(_train(trial, recipe))
        wanted = mean(_count_flops(run, REINFORCED) for run in runs[REINFORCED])
        steps = _choose_steps(trial, wanted, say)
        controls = {
            name: make_arm_recipe(trial, CONTROL, name, seed, steps) for name, seed in trial.name_arms(CONTROL).items()
        }
        _require_same(trial, controls)
        for name, recipe in controls.items():
            say(f"rl-helps: {name}, {steps} steps")
            runs[CONTROL].append(_train(trial, recipe))
        shutil.rmtree(trial.folder / PROBE, ignore_errors=True)
        _evaluate_before(trial, runs[BEFORE][0], next(iter(recipes.values())), say)
        for name, recipe in {**recipes, **controls}.items():
            _evaluate(trial, name, recipe, say)
        compute = mean(_count_flops(run, CONTROL) for run in runs[CONTROL]) / wanted
        return _judge(trial, runs, compute)


def _judge(trial: Trial, runs: dict[str, list[RunFolder]], compute: float) -> Judgement:
    folders = {arm: [run.answers.parent for run in of_arm] for arm, of_arm in runs.items()}
    arms = {arm: [read_saved(folder) for folder in of_arm] for arm, of_arm in folders.items()}
    found = judge(arms, trial.trained_tasks, compute)
    write_json(trial.folder / RESULT, {"run": trial.run.root.name, "stage": trial.stage.name, **found.to_json()})
    compared = compare({arm: folders[arm] for arm in (CONTROL, REINFORCED, BEFORE)})
    write_judgement(trial.folder / PAGE, f"{trial.run.root.resolve().name}, stage {trial.stage.name}", found, compared)
    return found


# --- training ---------------------------------------------------------------------------------------


def _train(trial: Trial, recipe: LoadedRecipe) -> RunFolder:
    run = RunFolder(trial.folder / recipe.recipe.name)
    if trial.run.tokenizer.is_dir() and not run.tokenizer.is_dir():
        _copy_tokenizer(trial.run.tokenizer, run.tokenizer)
    return train(recipe, trial.folder, counts_flops=True)


def _copy_tokenizer(of_run: Path, to: Path) -> None:
    """As a whole: a process that ends meanwhile leaves no incomplete folder of this name."""
    part = to.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(of_run, part)
    except shutil.Error as reason:  # a list of (file, its copy, why)
        raise RecipeError(f"{of_run}: a file cannot be copied ({reason.args[0][0][2]}); put it back") from None
    part.rename(to)


def _require_same(trial: Trial, recipes: dict[str, LoadedRecipe]) -> None:
    """Raises RecipeError if one of the runs was begun with other settings."""
    for name, recipe in recipes.items():
        path = RunFolder(trial.folder / name).recipe
        if path.is_file() and path.read_text(encoding="utf-8").partition("\n")[0] != f"# {recipe.recipe_hash}":
            raise RecipeError(
                f"{path.parent}: was begun with other settings, or before {trial.run.root} was moved; give another"
                f" folder with --to, or remove {trial.folder}"
            )


def _count_flops(run: RunFolder, stage: str) -> float:
    """Of the whole stage."""
    return mean(list_flops(run.metrics, stage)) * int(read_record(run.stage(stage))["step"])


class ComputeRecord(TypedDict):
    identity: str
    steps: int


def _choose_steps(trial: Trial, wanted: float, say: Callable[[str], None]) -> int:
    """The number of steps of the control that take as many operations. It is kept, so that runs that are resumed do not
    depend on a second measurement."""
    probe = make_arm_recipe(trial, CONTROL, PROBE, trial.loaded.recipe.seed, PROBE_STEPS)
    path, identity = trial.folder / COMPUTE, f"{probe.recipe_hash} {wanted:.6g}"
    if path.is_file():
        kept: ComputeRecord = read_object(path, ComputeRecord, f"remove it; {trial.folder.name} writes it again")
        if kept["identity"] == identity:
            return kept["steps"]
    say(f"rl-helps: counting {PROBE_STEPS} steps of the control")
    shutil.rmtree(trial.folder / PROBE, ignore_errors=True)
    counts = sorted(list_flops(_train(trial, probe).metrics, CONTROL))
    steps = ceil(wanted / counts[len(counts) // 2])
    write_json(path, {"identity": identity, "steps": steps, "flops": wanted, "flops_of_a_step": counts})
    return steps


# --- evaluation -------------------------------------------------------------------------------------


def _evaluate(trial: Trial, name: str, recipe: LoadedRecipe, say: Callable[[str], None]) -> None:
    run = RunFolder(trial.folder / name)
    if missing := list_unevaluated(run, run, recipe):
        say(f"rl-helps: evaluates {name}")
        # By the seed of the run: all arms are asked the same, with the same images of other patients.
        own = recipe.recipe.model_copy(update={"seed": trial.loaded.recipe.seed})
        evaluate_found(Who(replace(recipe, recipe=own), run, missing))


def _evaluate_before(trial: Trial, out: RunFolder, recipe: LoadedRecipe, say: Callable[[str], None]) -> None:
    """recipe: of an arm, which says how to evaluate."""
    if missing := list_unevaluated(trial.run, out, recipe):
        say(f"rl-helps: evaluates stage {trial.start}")
        how = {"evaluate": recipe.recipe.evaluate, "engine": recipe.recipe.engine, "data": recipe.recipe.data}
        loaded = replace(trial.loaded, recipe=trial.loaded.recipe.model_copy(update=how), cards=recipe.cards)
        evaluate_found(Who(loaded, trial.run, missing), trial.start, out=out)


# --- what the user reads ----------------------------------------------------------------------------


def describe_plan(trial: Trial) -> str:
    """What the trial costs, and what of it is done."""
    names = [*trial.name_arms(REINFORCED), *trial.name_arms(CONTROL)]
    done = [name for name in names if RunFolder(trial.folder / name).is_finished(name.rpartition("-")[0])]
    where = ", ".join(f"{source}:{split}" for source, split in trial.pairs)
    lines = [
        f"rl-helps trains {trial.seeds} runs of stage {trial.stage.name} and {trial.seeds} supervised controls of equal"
        f" compute, from stage {trial.start} of {trial.run.root}, and evaluates them and stage {trial.start} on"
        f" {where}: with the images of each patient, without images, and with those of another patient.",
        f"  runs        {trial.folder}" + (f" (trained: {', '.join(done)})" if done else ""),
        f"  time        {_describe_time(trial, len(names) - len(done))}, and {len(names) + 1} evaluations",
        f"  disk        {_describe_size(trial, len(names))}",
    ]
    if trial.seeds < SEEDS:
        lines.append(f"  verdict     none with {trial.seeds} seeds: {SEEDS} are needed")
    return "\n".join(lines)


def _describe_time(trial: Trial, left: int) -> str:
    if not trial.run.is_finished(trial.stage.name):
        return f"{left} runs; how long one takes is not known, because stage {trial.stage.name} was never trained"
    record = read_record(trial.run.stage(trial.stage.name))
    planned = make_arm_recipe(trial, REINFORCED, REINFORCED, 0).recipe.stages[0].steps or record["steps"]
    took, minutes = record.get("step", planned), float(record.get("seconds", 0.0)) / 60
    return (
        f"{left} runs; stage {trial.stage.name} took {minutes:.1f} min for {took} steps, so about"
        f" {left * minutes * planned / took:.0f} min for {planned}"
    )


def _describe_size(trial: Trial, count: int) -> str:
    names = (name for name in (trial.stage.name, trial.start) if trial.run.is_finished(name))
    folder = trial.run.stage(next(names))
    taken = folder / str(read_record(folder)["take"])
    size = sum(path.stat().st_size for path in taken.rglob("*") if path.is_file())
    kept = trial.stage.keep_last
    return f"about {count * kept * size / 2**20:,.0f} MiB: {count} runs with up to {kept} checkpoints each"


def format_judgement(found: Judgement, folder: Path) -> str:
    lines = [found.verdict, *(f"  {why}" for why in found.why), ""]
    lines += [f"compute of the control: {found.compute:.3f} of that of reinforcement; {found.seeds} seeds"]
    lines += [describe(each) for each in found.differences]
    return "\n".join([*lines, str(folder / PAGE), str(folder / RESULT)])
