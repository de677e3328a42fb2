"""How much answers depend on the images: what changes when a question is asked about another patient's.

Rows of the group `image`, from the answers that the baselines have anyway:

- `changed`: the share of answers that are another one with the images of another patient; as baseline `blind`, without
  images.
- `right_lost`: of the right answers, the share that is wrong then. Another patient may have the same answer by chance,
  so it is not 1 for a model that always looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvlm.core.measure import Measure, average
from medvlm.core.protocols import Record, Row
from medvlm.core.sample import Truth, truth_from_json
from medvlm.core.tasks import find_task
from medvlm.evaluate.protocols._rows import BLIND, SHUFFLED
from medvlm.evaluate.rows import Part, make_row

GROUP = "image"
HARDLY = 0.1
"""A model whose whole interval of `changed` (of `right_lost`) is below does not use its images (for its right answers).
38 patients without a single change are enough for that."""
RIGHT = 0.5
"""The least score of a right answer."""


def _make_measure(metric: str) -> Measure:
    return Measure(metric, GROUP, average(lambda answer, truth: answer), better=None)


CHANGED, RIGHT_LOST = _make_measure("changed"), _make_measure("right_lost")


def is_measured(record: Record) -> bool:
    """Whether a question was also asked with the images of another patient."""
    return record.get(SHUFFLED) is not None


def is_changed(record: Record) -> bool:
    """Whether the answer is another one with the images of another patient."""
    return not is_same(record["answer"], record[SHUFFLED], truth_from_json(record["truth"]))


def is_lost_without(record: Record) -> tuple[float, float]:
    """(whether a right answer is wrong with the images of another patient, whether it is right)."""
    truth = truth_from_json(record["truth"])
    right = _is_right(record, truth)
    return float(right and not _is_right(record, truth, SHUFFLED)), float(right)


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    """[] without answers to the images of another patient."""
    asked = list(filter(is_measured, records))
    truths = [truth_from_json(record["truth"]) for record in asked]
    right = [n for n, (record, truth) in enumerate(zip(asked, truths, strict=True)) if _is_right(record, truth)]
    changed = {
        who: [
            (float(not is_same(record["answer"], record.get(who), truth)), 1.0)
            for record, truth in zip(asked, truths, strict=True)
        ]
        for who in (SHUFFLED, BLIND)
    }
    lost = {who: [(float(not _is_right(asked[n], truths[n], who)), 1.0) for n in right] for who in (SHUFFLED, BLIND)}
    made = ((CHANGED, range(len(asked)), changed), (RIGHT_LOST, right, lost))
    return [
        make_row(measure, measure.metric, [_make_part(numbers, columns, asked)], settings)
        for measure, numbers, columns in made
        if numbers
    ]


def _make_part(numbers: Sequence[int], columns: Mapping[str, Any], asked: Sequence[Record]) -> Part:
    own = {"answer": np.array(columns[SHUFFLED])}
    if all(asked[n].get(BLIND) is not None for n in numbers):
        own[BLIND] = np.array(columns[BLIND])
    return Part(list(numbers), own, [asked[n]["cluster"] for n in numbers])


def is_same(answer: str, other: str | None, truth: Truth, truth_of_other: Truth | None = None) -> bool:
    """Whether two answers say the same. Of texts that cannot be read, whether they are equal. truth_of_other: if the
    other one was asked with its choices named in another way; they are in the same order."""
    read, read_other = _read(answer, truth), _read(other or "", truth_of_other or truth)
    if read is None or read_other is None:
        return answer == other
    return bool(read == read_other)


def _read(text: str, truth: Truth) -> Any:
    """What an answer says, a choice by its number; None if it cannot be read."""
    task = find_task(truth.task)
    read = task.parse(text, truth)
    choices = task.list_choices(truth) if task.list_choices else ()
    return list(choices).index(read) if read is not None and read in choices else read


def _is_right(record: Record, truth: Truth, who: str = "answer") -> bool:
    score = find_task(truth.task).score
    assert score is not None, truth.task
    return who not in record.get("cut", ()) and score(record.get(who) or "", truth) >= RIGHT


def explain(row: Mapping[str, Any]) -> str:
    """What a row of this group means; "" for others, and where nothing is proven."""
    ci = row.get("ci")
    if row.get("task") != GROUP or not ci:
        return ""
    if row["metric"] == CHANGED.metric and ci[1] < HARDLY:
        return f"the model ignores its images: {row['value']:.1%} of its answers change with those of another patient"
    if row["metric"] == RIGHT_LOST.metric and ci[1] < HARDLY:
        return (
            f"the right answers do not come from the images: with those of another patient, {row['value']:.1%} of them"
            " become wrong"
        )
    return ""
