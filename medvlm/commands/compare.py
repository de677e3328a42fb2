"""`medvlm compare`: the saved answers of several runs to the same questions, paired by patient."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.core.config import permit
from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder, write_json
from medvlm.evaluate.compare import Comparison, compare, explain_left_out, find_deviation, list_seed_notes
from medvlm.evaluate.saved import SETTINGS
from medvlm.report.comparison import write_comparison

OF_ONE_MODEL = ("name", "seed")
"""Keys of the recipe in which the runs of one model may differ."""


def compare_runs(models: Sequence[Sequence[Path]], to: Path) -> list[Comparison]:
    """Each model against the first one. models: the run folders of each, which differ in their seed. Writes the page
    `to`, and a JSON file beside it.

    Raises RecipeError for a folder that is not evaluated and for runs that are not of one model, DataError if two
    models were asked nothing in common."""
    if len(models) < 2:
        raise RecipeError(
            "compare: give at least two runs; the first is the one that the others are compared with (runs of one model"
            " with other seeds are joined by commas)"
        )
    if to.suffix == ".json":
        raise RecipeError(f"--to {to}: names the page, and a JSON file is written beside it; use {to.stem}.html")
    folders = [folder for runs in models for folder in runs]
    for run in map(RunFolder, folders):
        if not (run.answers.parent / SETTINGS).is_file():
            raise RecipeError(f"{run.root}: is not evaluated; run medvlm evaluate {shlex.quote(str(run.root))}")
        if run.recipe.is_file():
            plugins = read_yaml(run.recipe).data.get("plugins")
            permit(plugins if isinstance(plugins, list) else ())  # the answers may be of their tasks
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RecipeError("compare: the same run is given twice")
    for runs in models:
        _require_one_model(runs)
    names = _name(models)
    found = compare(
        {name: [RunFolder(f).answers.parent for f in runs] for name, runs in zip(names, models, strict=True)}
    )
    write_comparison(to, found, dict(zip(names, models, strict=True)))
    write_json(to.with_suffix(".json"), [each.to_json() for each in found])
    return found


def split_runs(text: str) -> list[Path]:
    """The folders of RUN or RUN,RUN,... Raises RecipeError for a comma with no folder before or behind it."""
    names = [text] if Path(text).exists() else text.split(",")
    if not all(map(str.strip, names)):
        raise RecipeError(f"compare: {text!r} names no run before or behind a comma; write RUN,RUN without spaces")
    return [Path(each) for each in names]


def _require_one_model(folders: Sequence[Path]) -> None:
    """Raises RecipeError if runs differ in more than their seed."""
    read = [(f, read_yaml(RunFolder(f).recipe).data) for f in folders if RunFolder(f).recipe.is_file()]
    seeds: dict[Any, Path] = {}
    for folder, recipe in read:
        other = [key for key in recipe.keys() | read[0][1].keys() if recipe.get(key) != read[0][1].get(key)]
        if changed := sorted(set(other) - set(OF_ONE_MODEL)):
            raise RecipeError(
                f"compare: {folder} and {read[0][0]} are not one model with other seeds: their recipes differ in"
                f" {', '.join(changed)}; give them without a comma to compare them"
            )
        if (same := seeds.setdefault(repr(recipe.get("seed")), folder)) != folder:
            raise RecipeError(
                f"compare: {same} and {folder} have the same seed ({recipe.get('seed')}); train each with another one,"
                " e.g. seed=1 name=NAME-1"
            )


def _name(models: Sequence[Sequence[Path]]) -> list[str]:
    """The names of the folders, of several runs what their names begin with; with the folder above them where two are
    called the same."""
    own = [_find_common([folder.resolve().name for folder in runs]) for runs in models]
    longer = [
        name if own.count(name) == 1 else f"{runs[0].resolve().parent.name}/{name}"
        for name, runs in zip(own, models, strict=True)
    ]
    return [name if longer.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(longer, 1)]


def _find_common(names: Sequence[str]) -> str:
    first, last = min(names), max(names)  # what these two begin with, all names do
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return (first[:length].rstrip("-_.") if len(names) > 1 else "") or names[0]


def format_value(value: float, values: Sequence[float]) -> str:
    """With the standard deviation over seeds, if there are several."""
    deviation = find_deviation(values)
    return f"{value:.3f}" if deviation is None else f"{value:.3f} \N{PLUS-MINUS SIGN} {deviation:.3f}"


def format_comparisons(found: Sequence[Comparison]) -> str:
    """Aligned lines of the headline metrics, one for each model and metric."""
    rows = [("data", "metric", "model", "value", "reference", "difference", "95 % interval", "p (Holm)", "")]
    for each in found:
        if each.is_headline:
            ci = f"[{each.ci[0]:.3f}, {each.ci[1]:.3f}]" if each.ci else "none"
            where, metric = f"{each.dataset}:{each.split}", f"{each.task} {each.metric}"
            values = format_value(each.value, each.values), format_value(each.against, each.values_against)
            numbers = (*values, f"{each.difference:+.3f}", ci, f"{each.holm:.3f}")
            rows.append((where, metric, each.model, *numbers, each.verdict))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if at in (0, 1, 2, 8) else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    notes = [*explain_left_out(found), *list_seed_notes(found)]
    return "\n".join([f"compared with {found[0].reference}", *lines, *notes])
