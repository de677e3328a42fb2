"""The results of several evaluations joined, such as those of the folds of a data set:

    python benchmarks/folds.py RUN RUN ... [--metric accuracy] [--on CARD] [--times 1]

The saved answers of runs that hold out different samples are scored as one evaluation: the value, its interval, and the
paired difference from every baseline, or from a multiple of it (--times 2: twice the best constant mask). Runs of one
fold with several seeds count a patient once: a draw takes all answers about a patient together, so intervals are about
patients and not about seeds. Sets of questions of `evaluate.questions` have rows of their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medvlm.core.config import component
from medvlm.core.protocols import FOLDER
from medvlm.evaluate.protocols._groups import list_together
from medvlm.evaluate.rows import Gap, make_row
from medvlm.evaluate.saved import read_saved
from medvlm.recipe.load import load_run


def join(runs: list[Path], dataset: str) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The settings of the first run, and the records of all by protocol. Patients of different folds are different."""
    numbers: dict[tuple[Any, ...], int] = {}
    joined: dict[str, list[dict[str, Any]]] = {}
    settings: dict[str, Any] = {}
    for run in runs:
        folds = tuple((name, source.fold) for name, source in load_run(run).recipe.data.items())
        for saved in read_saved(run / "evaluate"):
            settings = settings or dict(saved.settings)
            for kind, records in saved.records.items():
                for record in records:
                    if dataset and record["dataset"] != dataset:
                        continue
                    cluster = numbers.setdefault((folds, record["cluster"]), len(numbers))
                    joined.setdefault(kind, []).append({**record, "cluster": cluster})
    return settings, joined


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("runs", nargs="+", type=Path)
    asked.add_argument("--metric", default="accuracy")
    asked.add_argument("--on", default="", help="the card whose answers count, where runs were evaluated on several")
    asked.add_argument("--times", type=float, default=1.0)
    given = asked.parse_args()
    settings, joined = join(given.runs, given.on)
    for kind, records in joined.items():
        together = list_together(records, settings.get("questions") or {})
        for measure, metric, parts in component(FOLDER, kind).list_parts(records, settings):
            if metric.partition(":")[0] != given.metric:
                continue
            for name, numbers in {"": None, **together}.items() if metric == given.metric else [("", None)]:
                own = parts if numbers is None else [part.keep(numbers) for part in parts]
                row = make_row(measure, f"{metric}{name and ':'}{name}", own, settings)
                about = f"{measure.group} {row['metric']}, n {row['n']} of {row['patients']}"
                print(f"{about}: {row['value']:.3f} {row['ci']}")
                for who, value in row["baselines"].items():
                    gap = Gap(measure, [part.keep_answered(who) for part in own], settings, [who])
                    other_R = gap.own_R - gap.difference_R
                    gap.value, gap.difference_R = gap.own - given.times * gap.other, gap.own_R - given.times * other_R
                    low, high = gap.find_bounds()
                    often = "" if given.times == 1 else f" from {given.times:g} times as much"
                    print(f"    {who} {value:.3f}, difference{often} {gap.value:+.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
