"""`medvlm compare`: the saved answers of several runs to the same questions, paired by patient."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from medvlm.core.config import permit
from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder, write_json
from medvlm.evaluate.compare import Comparison, compare
from medvlm.evaluate.saved import SETTINGS
from medvlm.report.comparison import write_comparison


def compare_runs(folders: Sequence[Path], to: Path) -> list[Comparison]:
    """Each run against the first one. Writes the page `to`, and a JSON file beside it.

    Raises RecipeError for a folder that is not evaluated, DataError if two runs were asked nothing in common."""
    if len(folders) < 2:
        raise RecipeError("compare: give at least two runs; the first is the one that the others are compared with")
    if to.suffix == ".json":
        raise RecipeError(f"--to {to}: names the page, and a JSON file is written beside it; use {to.stem}.html")
    runs = [RunFolder(folder) for folder in folders]
    for run in runs:
        if not (run.answers.parent / SETTINGS).is_file():
            raise RecipeError(f"{run.root}: is not evaluated; run medvlm evaluate {shlex.quote(str(run.root))}")
        if run.recipe.is_file():
            plugins = read_yaml(run.recipe).data.get("plugins")
            permit(plugins if isinstance(plugins, list) else ())  # the answers may be of their tasks
    names = _name([run.root for run in runs])
    found = compare({name: run.answers.parent for name, run in zip(names, runs, strict=True)})
    write_comparison(to, found)
    write_json(to.with_suffix(".json"), [each.to_json() for each in found])
    return found


def _name(folders: Sequence[Path]) -> list[str]:
    """The names of the folders; with those above them where two are called the same."""
    own = [folder.resolve().name for folder in folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RecipeError("compare: the same run is given twice")
    return [
        name if own.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for name, folder in zip(own, folders, strict=True)
    ]


def format_comparisons(found: Sequence[Comparison]) -> str:
    """Aligned lines of the headline metrics, one for each model and metric."""
    rows = [("data", "metric", "model", "value", "reference", "difference", "95 % interval", "p (Holm)", "")]
    for each in found:
        if each.is_headline:
            ci = f"[{each.ci[0]:.3f}, {each.ci[1]:.3f}]" if each.ci else "none"
            where, metric = f"{each.dataset}:{each.split}", f"{each.task} {each.metric}"
            numbers = (f"{each.value:.3f}", f"{each.against:.3f}", f"{each.difference:+.3f}", ci, f"{each.holm:.3f}")
            rows.append((where, metric, each.model, *numbers, each.verdict))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if at in (0, 1, 2, 8) else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    left_out = {
        f"{c.model}: {c.left_out} records of {c.dataset}:{c.split} are of one model only" for c in found if c.left_out
    }
    return "\n".join([f"compared with {found[0].reference}", *lines, *sorted(left_out)])
