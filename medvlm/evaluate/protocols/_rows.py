"""Computes rows from the records of questions, whether text or a decoder answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from typing import Any, NotRequired

import numpy as np

from medvlm.core.measure import AtPoints, ByTemplate, Measure, OfJudge, fit_columns
from medvlm.core.protocols import Record, Row, SplitRecord
from medvlm.core.sample import Truth, truth_from_json
from medvlm.core.tasks import find_task
from medvlm.evaluate.measures import REWARD, list_measures
from medvlm.evaluate.protocols._groups import list_groups, list_together
from medvlm.evaluate.rows import Part, find_value, make_row

BLIND, SHUFFLED, MAJORITY, NEAREST, CHANCE = "blind", "shuffled", "majority", "nearest", "chance"
FILLED, MISPLACED = "filled", "misplaced"
"""Of questions whose objects are shown by prompts."""


class AskedRecord(SplitRecord):
    """A question of any task, and how it was answered."""

    key: str
    cluster: int
    template: str
    task: str
    question: str
    truth: dict[str, Any]
    cut: NotRequired[list[str]]
    constants: NotRequired[dict[str, Any] | None]
    points: NotRequired[dict[str, Any] | None]
    groups: NotRequired[dict[str, str] | None]
    judged: NotRequired[dict[str, dict[str, float | None]]]
    filled: NotRequired[str | None]
    misplaced: NotRequired[str | None]


class TextRecord(AskedRecord):
    """One that is answered in text."""

    answer: str
    said: NotRequired[dict[str, str]]
    blind: NotRequired[str | None]
    shuffled: NotRequired[str | None]
    majority: NotRequired[str | None]
    nearest: NotRequired[str | None]


def rows_of(records: Sequence[Record], settings: Mapping[str, Any], rules: Sequence[Measure] = ()) -> list[Row]:
    """The rows of groups of the samples, and of sets of questions, follow those of all. rules: measures of published
    scoring rules."""
    rows: list[Row] = []
    of_groups: list[Row] = []
    groups = {**list_groups(records), **list_together(records, settings.get("questions") or {})}
    for measure, metric, parts in list_parts(records, settings, rules):
        rows.append(make_row(measure, metric, parts, settings))
        if isinstance(measure.columns, OfJudge) and (unread := _count_unread(measure, metric, records)):
            rows[-1]["unread"] = unread
        for group, numbers in groups.items() if metric == measure.metric else ():
            own = [kept for part in parts if (kept := part.keep(numbers)).numbers]
            if own and not isnan(find_value(measure, own)):
                of_groups.append({**make_row(measure, f"{metric}:{group}", own, settings), "group": group})
    return [*rows, *of_groups]


def list_parts(
    records: Sequence[Record], settings: Mapping[str, Any], rules: Sequence[Measure] = ()
) -> Iterator[tuple[Measure, str, list[Part]]]:
    """Each row as its measure, its metric and the parts whose mean it is. An answer that was cut counts as none, and
    thoughts are no part of it, but published rules and rewards read them too."""
    truths = [truth_from_json(record["truth"]) for record in records]
    with_own_choices = _find_templates_with_own_choices(records, truths)
    ours = list_measures({truth.task for truth in truths}, settings["rewards"])
    for measure in [*ours, *rules]:
        about = [n for n, record in enumerate(records) if measure.is_about(record["template"], truths[n])]
        is_rule = measure in rules
        measure = replace(measure, columns=fit_columns(measure, [truths[n] for n in about]))
        said: dict[str, list[Sequence[Any]]] = {
            who: [_list_said(who, records[n], measure, is_rule) for n in about]
            for who in ("answer", *(name for name in settings["baselines"] if name != CHANCE))
        }
        if CHANCE in settings["baselines"] and not isinstance(measure.columns, OfJudge):
            said[CHANCE] = [_guess(truths[n]) if records[n]["template"] in with_own_choices else () for n in about]
        said = {who: of_who for who, of_who in said.items() if any(map(len, of_who))}
        if "answer" in said:
            parts = _make_parts(measure, records, truths, about, said)
            for metric, keys in _name_rows(measure, parts).items():
                chosen = [parts[key] for key in keys]
                if chosen and not isnan(find_value(measure, chosen)):
                    yield measure, metric, chosen


def merge(records: Sequence[Record], others: Sequence[Record], name: str) -> list[Record]:
    """The records of the questions that both have, with what another model answered as the baseline `name`. It is
    judged by its own truth, because it may perceive another canvas."""
    found = dict(zip(identify_records(others), others, strict=True))
    merged = []
    for identity, record in zip(identify_records(records), records, strict=True):
        other = found.get(identity)
        if other is not None:
            cut = [*record.get("cut", ()), *([name] if "answer" in other.get("cut", ()) else ())]
            own = {**record.get("own", {}), name: {"truth": other["truth"], "points": other.get("points")}}
            judged = {
                rubric: {**of_who, name: other.get("judged", {}).get(rubric, {}).get("answer")}
                for rubric, of_who in record.get("judged", {}).items()
            }
            said = {**record.get("said", {}), name: find_said("answer", other)}
            merged.append({**record, name: other["answer"], "said": said, "cut": cut, "own": own, "judged": judged})
    return merged


def identify_records(records: Sequence[Record]) -> list[tuple[Any, ...]]:
    """Of each record, what it has in common with that of another model. A question may stand twice in a sample."""
    times: Counter[tuple[str, ...]] = Counter()
    found = []
    for record in records:
        asked = record["key"], record["template"], record["task"], record["question"]
        times[asked] += 1
        found.append((*asked, times[asked]))
    return found


def _list_said(who: str, record: Record, measure: Measure, is_rule: bool) -> Sequence[Any]:
    """The answer, as a sequence of one; for rewards and published rules, all that was said; for the majority baseline,
    the best constant for this metric; "" for one that was cut; for the measure of a judge, its score. Empty if the
    baseline could not be asked, or there is no score."""
    if isinstance(measure.columns, OfJudge):
        score = record.get("judged", {}).get(measure.columns.rubric, {}).get(who)
        return () if score is None else (score,)
    if is_lost(who, record) and not is_rule:
        return ("",)
    reads_all = is_rule or measure.group == REWARD
    constants: dict[str, Any] = record.get("constants") or {} if who == MAJORITY else {}
    said = constants.get(measure.metric, find_said(who, record) if reads_all else record.get(who))
    return () if said is None else (said,)


def _count_unread(measure: Measure, metric: str, records: Sequence[Record]) -> int:
    """The questions of a row whose answer the judge gave no readable score."""
    assert isinstance(measure.columns, OfJudge)
    template = metric.partition(":")[2]
    scores = [
        record.get("judged", {}).get(measure.columns.rubric, {}).get("answer", 0.0)
        for record in records
        if not template or record["template"] == template
    ]
    return scores.count(None)


def _guess(truth: Truth) -> Sequence[Any]:
    """All answers that a guess chooses from."""
    choices = find_task(truth.task).list_choices
    return choices(truth) if choices else ()


def _find_templates_with_own_choices(records: Sequence[Record], truths: Sequence[Truth]) -> set[str]:
    """Templates whose questions do not all have the same choices."""
    first: dict[str, Sequence[Any]] = {}
    found = set()
    for record, truth in zip(records, truths, strict=True):
        template, choices = record["template"], tuple(_guess(truth))
        if choices and first.setdefault(template, choices) != choices:
            found.add(template)
    return found


Key = tuple[str, str]
"""(template, class); "" means all of them."""


def _make_parts(
    measure: Measure,
    records: Sequence[Record],
    truths: Sequence[Truth],
    about: Sequence[int],
    said: Mapping[str, Sequence[Sequence[Any]]],
) -> dict[Key, Part]:
    """A part with all questions and one per template; for a measure by class, one per class of each template. said:
    model or baseline -> for each question one answer, several equally probable ones, or none."""
    numbers: dict[Key, list[int]] = {}
    columns: dict[Key, dict[str, list[tuple[float, ...]]]] = {}
    by_template = measure.columns if isinstance(measure.columns, ByTemplate) else None
    for position, n in enumerate(about):
        template = records[n]["template"]
        judged_by = {who: _find_judge(records[n], who, truths[n]) for who in said}
        for_it = replace(measure, columns=by_template.of(template)) if by_template else measure
        found = {who: _measure(for_it, of_who[position], *judged_by[who]) for who, of_who in said.items()}
        for name, own in found["answer"].items():
            for key in [(template, name)] if measure.by_class else [("", ""), (template, "")]:
                numbers.setdefault(key, []).append(n)
                of_key = columns.setdefault(key, {who: [] for who in said})
                for who, of_who in found.items():
                    of_key[who].append(of_who.get(name, (nan,) * len(own)))
    return {
        key: Part(
            numbers[key],
            {who: np.array(of_who) for who, of_who in of_key.items()},
            [records[n]["cluster"] for n in numbers[key]],
        )
        for key, of_key in columns.items()
    }


def _find_judge(record: Record, who: str, truth: Truth) -> tuple[Truth, Mapping[str, Any]]:
    """The truth and the operating points by which an answer is judged: of another model, its own."""
    own = record.get("own", {}).get(who)
    if own is None:
        return truth, record.get("points") or {}
    return truth_from_json(own["truth"]), own["points"] or {}


def _measure(
    measure: Measure, answers: Sequence[Any], truth: Truth, points: Mapping[str, Any]
) -> dict[str, tuple[float, ...]]:
    """Class ("" for a measure without classes) -> its columns, averaged over the answers; {} without an answer."""
    add_columns = measure.columns.at(points) if isinstance(measure.columns, AtPoints) else measure.columns
    found: list[dict[str, Any]] = []
    for answer in answers:
        columns: Any = add_columns(answer, truth)
        found.append(columns if measure.by_class else {"": columns})
    if len(found) < 2:
        return found[0] if found else {}
    return {name: tuple(np.mean([each[name] for each in found], axis=0)) for name in found[0]}


def _name_rows(measure: Measure, parts: Mapping[Key, Part]) -> dict[str, list[Key]]:
    """Name of each row -> the parts whose mean it is."""
    if not measure.by_class:
        templates = sorted(template for template, _ in parts if template) if measure.by_template else []
        return {measure.metric: [("", "")], **{f"{measure.metric}:{each}": [(each, "")] for each in templates}}
    rows = {measure.metric: list(parts)}
    for template in sorted({template for template, _ in parts}):
        own = [key for key in parts if key[0] == template]
        rows[f"{measure.metric}:{template}"] = own
        if len(own) > 1:
            rows |= {f"{measure.metric}:{template}:{name}": [(template, name)] for _, name in own}
    return rows


def find_said(who: str, record: Record) -> Any:
    """The whole text, of which the answer may be a part."""
    return record.get("said", {}).get(who, record.get(who))


def is_lost(who: str, record: Record) -> bool:
    """Whether an answer was cut and so counts as none. Long ones are compared as far as they go."""
    return who in record.get("cut", ()) and not find_task(record["task"]).IS_LONG
