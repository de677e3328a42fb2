"""Whether reinforcement helped, from the saved answers of three models: the one before it, those after it, and those
after supervised training of equal compute.

One score tells it: that of the answers to the questions of the tasks that reinforcement trains, each in [0, 1] and
judged by its task alone, never by its format.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medvlm.core.measure import Measure, average
from medvlm.core.protocols import Record
from medvlm.evaluate.protocols._rows import identify_records
from medvlm.evaluate.protocols._sensitivity import HARDLY, is_changed, is_lost_without, is_measured
from medvlm.evaluate.rows import ModelGap, Part, round_bounds, shorten
from medvlm.evaluate.saved import SavedSplit

BEFORE, REINFORCED, CONTROL = "before", "reinforced", "control"
HELPED = "reinforcement helped"
AS_WELL = "supervised training of equal compute did as well"
NOT_SHOWN = "not shown"
SEEDS = 3
"""The least number of seeds of each arm."""
COUNTS = 0.01
"""A gain in score that is smaller counts as none."""
EQUAL = 0.95
"""The least compute of the control, as a share of that of reinforcement."""


@dataclass(frozen=True)
class Difference:
    """A mean after `of` minus that after `against`, on the same questions. task: "" for all that are trained. ci: 95 %
    by patients and seeds. values, values_against: of each seed."""

    what: str
    task: str
    of: str
    against: str
    difference: float
    ci: list[float] | None
    n: int
    patients: int
    values: list[float]
    values_against: list[float]


@dataclass(frozen=True)
class Judgement:
    """compute: the operations of the control as a share of those of reinforcement. differences: of scores and of the
    dependence on images; `score` of all trained tasks comes first."""

    verdict: str
    why: list[str]
    seeds: int
    compute: float
    differences: list[Difference]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def find(self, what: str, of: str, against: str, task: str = "") -> Difference | None:
        wanted = (what, of, against, task)
        return next((d for d in self.differences if (d.what, d.of, d.against, d.task) == wanted), None)


Arms = Mapping[str, Sequence[Sequence[SavedSplit]]]
"""Arm -> for each of its runs what was asked."""
Columns = Callable[[Record], tuple[float, float]]
PAIRS = ((REINFORCED, BEFORE), (CONTROL, BEFORE), (REINFORCED, CONTROL))
CHANGED, RIGHT_LOST = "changed", "right_lost"


def judge(arms: Arms, trained: Collection[str], compute: float) -> Judgement:
    """arms: of BEFORE, a single run. trained: tasks that reinforcement trains. compute: see Judgement."""
    asked = _pair_records(arms)
    own = [each for each in asked if _of(each)["task"] in trained]
    settings = arms[BEFORE][0][0].settings
    differences = _compare("score", "", own, _find_score, settings)
    for task in sorted({_of(each)["task"] for each in asked}):
        of_task = [each for each in asked if _of(each)["task"] == task]
        differences += _compare("score", task, of_task, _find_score, settings)
    shown = [each for each in own if all(is_measured(record) for _, record in each.records.values())]
    if shown:
        differences += _compare(CHANGED, "", shown, lambda record: (float(is_changed(record)), 1.0), settings)
        differences += _compare(RIGHT_LOST, "", shown, is_lost_without, settings)
    seeds = min(len(arms[REINFORCED]), len(arms[CONTROL]))
    undecided = Judgement("", [], seeds, round(compute, 4), differences)
    verdict, why = _decide(undecided)
    return Judgement(verdict, why, seeds, undecided.compute, differences)


@dataclass(frozen=True)
class _Question:
    """records: (arm, number of its run) -> (cluster, record)."""

    cluster: tuple[str, str, int]
    records: Mapping[tuple[str, int], tuple[int, Record]]


def _of(question: _Question) -> Record:
    return question.records[BEFORE, 0][1]


def _pair_records(arms: Arms) -> list[_Question]:
    """The questions with a score that every run answered."""
    found: dict[tuple[Any, ...], dict[tuple[str, int], tuple[int, Record]]] = {}
    runs = [(arm, number, splits) for arm, of_arm in arms.items() for number, splits in enumerate(of_arm)]
    for arm, number, splits in runs:
        for saved in splits:
            for kind, records in saved.records.items():
                scored = [record for record in records if record.get("score") is not None]
                for identity, record in zip(identify_records(scored), scored, strict=True):
                    key = saved.dataset, saved.split, kind, identity
                    found.setdefault(key, {})[arm, number] = record["cluster"], record
    return [
        _Question((*key[:2], records[BEFORE, 0][0]), records)
        for key, records in found.items()
        if len(records) == len(runs)
    ]


def _find_score(record: Record) -> tuple[float, float]:
    return float(record["score"]), 1.0


def _compare(
    what: str, task: str, asked: Sequence[_Question], columns: Columns, settings: Mapping[str, Any]
) -> list[Difference]:
    if not asked:
        return []
    runs = list(asked[0].records)
    columns_of = {run: np.array([columns(each.records[run][1]) for each in asked]) for run in runs}
    if any(not column[:, 1].any() for column in columns_of.values()):  # no right answer that could be lost
        return []
    clusters: dict[Any, int] = {}
    numbers = [clusters.setdefault(each.cluster, len(clusters)) for each in asked]
    part = Part(range(len(asked)), {_name(run): column for run, column in columns_of.items()}, numbers)
    measure = Measure(what, "reinforcement", average(lambda answer, truth: answer))
    found = []
    for of, against in PAIRS:
        own, others = ([_name(run) for run in runs if run[0] == arm] for arm in (of, against))
        gap = ModelGap(measure, [part], settings, others, own)
        values, values_against = (list(map(shorten, each)) for each in (gap.values, gap.against))
        bounds = round_bounds(*gap.find_bounds())
        found.append(
            Difference(
                what, task, of, against, shorten(gap.value) + 0.0, bounds, len(asked), len(clusters), values,
                values_against,
            )
        )  # fmt: skip
    return found


def _name(run: tuple[str, int]) -> str:
    return f"{run[0]} {run[1]}"


def _decide(found: Judgement) -> tuple[str, list[str]]:
    against = {arm: found.find("score", REINFORCED, arm) for arm in (CONTROL, BEFORE)}
    control, before = against[CONTROL], against[BEFORE]
    if control is None or before is None:
        return NOT_SHOWN, [
            "no question of the trained tasks was answered by all runs; evaluate on a split that has some"
        ]
    numbers = [describe(before), describe(control)]
    if found.seeds < SEEDS:
        return NOT_SHOWN, [f"{found.seeds} seeds of an arm prove nothing; at least {SEEDS} are needed", *numbers]
    if found.compute < EQUAL:
        return NOT_SHOWN, [f"the control had {found.compute:.0%} of the compute of reinforcement", *numbers]
    if control.ci is None or before.ci is None:
        return NOT_SHOWN, ["there is no interval: all questions are of one patient", *numbers]
    if control.ci[1] < COUNTS:
        return AS_WELL, [f"reinforcement gains less than {COUNTS:g} more, by the whole interval", *numbers]
    if control.ci[0] <= 0 or before.ci[0] <= 0:
        than = "the control" if control.ci[0] <= 0 else "the model before it"
        return NOT_SHOWN, [f"the interval of the difference from {than} holds 0; use more seeds or patients", *numbers]
    if why := _find_blindness(found):
        return NOT_SHOWN, [why, *numbers]
    return HELPED, numbers


def _find_blindness(found: Judgement) -> str:
    """Why a gain does not count because of the images; "" if nothing speaks against it."""
    changed, lost = (found.find(what, REINFORCED, BEFORE) for what in (CHANGED, RIGHT_LOST))
    if changed is None or changed.ci is None:
        return (
            "how much the answers depend on the images is not known, because no question was also asked with those of"
            " another patient"
        )
    if max(changed.values) < HARDLY:
        return f"after reinforcement the model ignores its images: {describe(changed)}"
    if lost is not None and lost.ci is not None and lost.ci[1] < 0:
        return f"right answers depend less on the images than before: {describe(lost)}"
    return ""


WORDS = {
    "score": "score",
    CHANGED: "answers that change with the images of another patient",
    RIGHT_LOST: "right answers that are wrong with the images of another patient",
}


def describe(each: Difference) -> str:
    """`score: reinforced 0.881 (0.880, 0.882) minus before 0.880: +0.001 [-0.001, 0.003]`"""
    interval = f"[{each.ci[0]:+.3f}, {each.ci[1]:+.3f}]" if each.ci else "no interval"
    of, against = (
        f"{name} {np.mean(values):.3f}" + (f" ({', '.join(f'{x:.3f}' for x in values)})" if len(values) > 1 else "")
        for name, values in ((each.of, each.values), (each.against, each.values_against))
    )
    task = f" of {each.task}" if each.task else ""
    return f"{WORDS[each.what]}{task}: {of} minus {against}: {each.difference:+.3f} {interval}, n {each.n}"
