"""Training curves of several runs over each other, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from medvlm.report.curves import Series, draw_curve
from medvlm.report.markup import tag
from medvlm.report.page import Section, make_section
from medvlm.report.reading import RunRecord, StageLog

MOST_CURVES = 8
"""Charts of a stage; the first are the loss and its validation."""
ABOUT = (
    "Stages of the same name, one line for each run. Faint lines are logged values, strong lines their running mean."
    " Losses of other data, batches or kinds of stages cannot be compared."
)


def make_overlaid_section(runs: Mapping[str, RunRecord]) -> Section | None:
    """None if no two runs have a stage of the same name with a log."""
    blocks = []
    for stage in dict.fromkeys(name for run in runs.values() for name in run.stages):
        logs = {name: run.stages[stage].log for name, run in runs.items() if stage in run.stages}
        logs = {name: log for name, log in logs.items() if log.train or log.validation}
        if len(logs) < 2:
            continue
        planned = max(run.stages[stage].planned for name, run in runs.items() if name in logs)
        charts = [draw_curve(title, series, x_max=planned) for title, series in _list_charts(logs)]
        curves = tag("div", *charts[:MOST_CURVES], class_="curves")
        blocks.append(tag("div", tag("h3", stage), curves, class_="stage"))
    return make_section("Training curves", "curves", *blocks, about=ABOUT) if blocks else None


def _list_charts(logs: Mapping[str, StageLog]) -> Iterator[tuple[str, list[Series]]]:
    """Of what at least two runs have logged."""
    validations = dict.fromkeys(name for log in logs.values() for name in log.validation)
    terms = dict.fromkeys(name for log in logs.values() for name in log.train if name.startswith("terms/"))
    wanted = [("loss", "loss", False), ("loss, validation", "loss", True)]
    wanted += [(f"{name}, validation", name, True) for name in validations if name != "loss"]
    wanted += [(name.removeprefix("terms/"), name, False) for name in terms if "by source" not in name]
    wanted += [("gradient norm", "grad_norm", False), ("learning rate", "lr", False)]
    for title, key, is_validation in wanted:
        found = [
            Series(name, log.get_validations(key) if is_validation else log.get_points(key), marks=is_validation)
            for name, log in logs.items()
        ]
        if sum(bool(each.points) for each in found) > 1:
            yield title.replace("_", " "), [each for each in found if each.points]
