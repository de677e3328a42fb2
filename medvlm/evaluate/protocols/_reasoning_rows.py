"""Rows of answers with a rationale, from their records alone.

Of all questions:

- `accuracy_reasoned`: the score of the answers with a rationale. Its paired difference from `direct` is what reasoning
  changes.
- `stated`: the share of texts that say which part of them is the answer.
- `words`: the length of a text; as `direct`, that of an answer without a rationale.

Of questions whose card gives `steps` (tasks/_steps.py says when a rationale says a step):

- `step_recall`: the share of the steps that it says. `step_precision`: the share of its sentences that say one.
  `step_f1`: of these two means. `other`: the same for the rationale of another question of the template.
- `steps_per_100_words`: how many steps are said per 100 words of all texts: efficiency.
- `rationale_rouge_l`: ROUGE-L of the rationale and the steps.
- `path`: how similar the order of the steps is to the commonest order of the template, averaged over templates.

Of several draws:

- `same_answer`: how often two drawn answers to a question are the same. `same_path`: how similar the orders of steps of
  two draws are.

Orders are compared by their longest common part, divided by the length of the longer one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from typing import Any, Literal

import numpy as np

from medvlm.core.measure import Measure, Statistic, mean
from medvlm.core.protocols import Record, Row
from medvlm.core.sample import truth_from_json
from medvlm.core.tasks import find_task
from medvlm.data.rationale import Said, read_direct, read_said
from medvlm.evaluate.protocols._models import MODELS, list_models
from medvlm.evaluate.rows import Part, make_row
from medvlm.metrics.text import find_common_length, rouge_l
from medvlm.tasks._steps import find_steps
from medvlm.tasks._words import normalise, words

DIRECT, OTHER = "direct", "other"
GROUP, ACCURACY = "reasoning", "accuracy_reasoned"
Columns = tuple[float, ...]
Count = Callable[[Record], Columns]
Found = tuple[Measure, str, list[Part]]


def f1_of_means(totals_RK: np.ndarray) -> np.ndarray:
    """For columns (precision, recall, 1): the F1 of their means, as in M3CoTBench; 0 where both are 0."""
    precision_R, recall_R = totals_RK[:, 0] / totals_RK[:, 2], totals_RK[:, 1] / totals_RK[:, 2]
    both_R = precision_R + recall_R
    f1_R: np.ndarray = 2 * precision_R * recall_R / np.where(both_R > 0, both_R, 1.0)
    return f1_R


def per_hundred(totals_RK: np.ndarray) -> np.ndarray:
    """For columns (steps, words); 0 without words."""
    rate_R: np.ndarray = 100 * totals_RK[:, 0] / np.maximum(totals_RK[:, 1], 1.0)
    return rate_R


def _make(
    metric: str,
    better: Literal["higher"] | None = "higher",
    statistic: Statistic = mean,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Measure:
    return Measure(metric, GROUP, lambda answer, truth: answer, better=better, statistic=statistic, bounds=bounds)


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return [make_row(*found, settings) for found in list_parts(records, settings)]


def list_parts(records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[Found]:
    models = list_models(records)
    yield from _list_answers(_Answers(records, models, DIRECT in settings["baselines"]))
    if with_steps := [record for record in records if record["steps"]]:
        yield from _list_steps(_Answers(with_steps, models, OTHER in settings["baselines"]))
    drawn = [r for r in records if all(len(each["drawn"]) > 1 for each in (r, *r.get(MODELS, {}).values()))]
    if drawn:
        yield _make("same_answer", None), "same_answer", [_Answers(drawn, models).count(_count_same_answers)]
    if drawn := [record for record in drawn if record["steps"]]:
        yield _make("same_path", None), "same_path", [_Answers(drawn, models).count(_count_same_paths)]


@dataclass(frozen=True)
class _Answers:
    """Records, and who answered beside the model itself. models: names of other models, whose records are in these.
    has_baseline: whether the baseline of the rows is measured."""

    records: Sequence[Record]
    models: Sequence[str]
    has_baseline: bool = False

    def count(self, count: Count, numbers: Sequence[int] = (), **baseline: Count) -> Part:
        """numbers: of the records, by default all. baseline: what it counts, NaN where it has nothing."""
        numbers = numbers or range(len(self.records))
        columns = {who: list(map(count, of_who)) for who, of_who in self.list_of_each(numbers).items()}
        for who, count_other in baseline.items() if self.has_baseline else ():
            columns[who] = [count_other(self.records[n]) for n in numbers]
        return self.make_part(numbers, columns)

    def list_of_each(self, numbers: Sequence[int]) -> dict[str, list[Record]]:
        """`answer` and the other models -> their records with these numbers."""
        own = [self.records[n] for n in numbers]
        return {"answer": own, **{name: [record[MODELS][name] for record in own] for name in self.models}}

    def make_part(self, numbers: Sequence[int], columns: Mapping[str, Sequence[Columns]]) -> Part:
        return Part(
            numbers,
            {who: np.array(of_who) for who, of_who in columns.items()},
            [self.records[n]["cluster"] for n in numbers],
        )

    def group(self) -> dict[str, list[int]]:
        """Template -> the numbers of its records."""
        found: dict[str, list[int]] = {}
        for number, record in enumerate(self.records):
            found.setdefault(record["template"], []).append(number)
        return dict(sorted(found.items()))


# --- answers ----------------------------------------------------------------------------------------


def _list_answers(answers: _Answers) -> Iterator[Found]:
    templates = answers.group()
    yield _make(ACCURACY), ACCURACY, [answers.count(_score, direct=_score_direct)]
    for template, numbers in templates.items() if len(templates) > 1 else ():
        yield _make(ACCURACY), f"{ACCURACY}:{template}", [answers.count(_score, numbers, direct=_score_direct)]
    yield _make("stated", None), "stated", [answers.count(lambda record: _average(_read(record).is_stated))]
    count = answers.count(
        lambda record: _average(_count_words(record["said"])),
        direct=lambda record: _average(_count_words(record["direct"])),
    )
    yield _make("words", None, bounds=None), "words", [count]


def _average(value: float) -> Columns:
    return float(value), 1.0


def _read(record: Record, said: Mapping[str, Any] | None = None) -> Said:
    """The answer and the rationale of what was said with a rationale. said: one of the drawn texts."""
    said = said or record["said"]
    if said["final"] is None:
        return read_said(said["text"], record["rationale"])
    return Said(read_direct(said["final"]), said["text"], True)


def _score(record: Record) -> Columns:
    return _judge(record, "" if record["said"]["cut"] else _read(record).answer)


def _score_direct(record: Record) -> Columns:
    return _judge(record, "" if record["direct"]["cut"] else read_direct(record["direct"]["text"]))


def _judge(record: Record, answer: str) -> Columns:
    score = find_task(record["task"]).score
    assert score is not None, record["task"]
    return _average(score(answer, truth_from_json(record["truth"])))


def _count_words(said: Mapping[str, Any]) -> int:
    return len(words(said["text"])) + len(words(said["final"] or ""))


# --- steps ------------------------------------------------------------------------------------------


def _list_steps(answers: _Answers) -> Iterator[Found]:
    others = _find_others(answers) if answers.has_baseline else {}

    def compare(metric: str, count: Callable[[str, Record], Columns], statistic: Statistic = mean) -> Found:
        """count: (rationale, record with the steps) -> columns."""

        def count_other(record: Record) -> Columns:
            other = others[record["key"], record["question"]]
            return (nan, nan, nan)[: len(count("", record))] if other is None else count(_read(other).rationale, record)

        part = answers.count(lambda record: count(_read(record).rationale, record), other=count_other)
        return _make(metric, statistic=statistic), metric, [part]

    yield compare("step_f1", _count_f1, f1_of_means)
    yield compare("step_precision", lambda text, record: _average(_count_f1(text, record)[0]))
    yield compare("step_recall", lambda text, record: _average(_count_f1(text, record)[1]))
    yield compare("rationale_rouge_l", _compare_words)
    rate = _make("steps_per_100_words", statistic=per_hundred, bounds=None)
    yield rate, rate.metric, [answers.count(_count_rate)]
    yield _make("path", None), "path", [_compare_paths(answers, numbers) for numbers in answers.group().values()]


def _count_f1(rationale: str, record: Record) -> Columns:
    """Precision, recall, and 1."""
    found = find_steps(rationale, record["steps"])
    precision = found.num_right / found.num_sentences if found.num_sentences else 0.0
    return precision, len(found.path) / len(record["steps"]), 1.0


def _compare_words(rationale: str, record: Record) -> Columns:
    return _average(rouge_l(words(rationale), words("\n".join(record["steps"].values()))))


def _count_rate(record: Record) -> Columns:
    return float(len(_find_path(record))), float(_count_words(record["said"]))


def _find_path(record: Record, said: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    return find_steps(_read(record, said).rationale, record["steps"]).path


def _find_others(answers: _Answers) -> dict[tuple[str, str], Record | None]:
    """(key, question) of each record -> the next record of its template that is of another patient, from the first
    again after the last."""
    found: dict[tuple[str, str], Record | None] = {}
    for numbers in answers.group().values():
        records = [answers.records[n] for n in numbers]
        for at, record in enumerate(records):
            later = (*records[at + 1 :], *records[:at])
            others = (other for other in later if other["cluster"] != record["cluster"])
            found[record["key"], record["question"]] = next(others, None)
    return found


def _compare_paths(answers: _Answers, numbers: Sequence[int]) -> Part:
    """How similar each path is to the commonest one of the same model."""
    columns = {}
    for who, records in answers.list_of_each(numbers).items():
        paths = list(map(_find_path, records))
        (commonest, _), *_ = Counter(paths).most_common(1)
        columns[who] = [_average(compare_orders(path, commonest)) for path in paths]
    return answers.make_part(numbers, columns)


def compare_orders(one: Sequence[str], other: Sequence[str]) -> float:
    """The length of the longest common subsequence, divided by that of the longer one; 0 where nothing is said, since
    saying nothing twice is no agreement (1 in M3CoTBench)."""
    longer = max(len(one), len(other))
    return find_common_length(one, other) / longer if longer else 0.0


# --- draws ------------------------------------------------------------------------------------------


def _count_same_answers(record: Record) -> Columns:
    """The share of pairs of draws with the same answer. One that cannot be read is like no other."""
    truth, parse = truth_from_json(record["truth"]), find_task(record["task"]).parse
    read: list[Any] = []
    for said in record["drawn"]:
        found = None if said["cut"] else parse(_read(record, said).answer, truth)
        read.append(normalise(found) or None if isinstance(found, str) else found)
    return _average(_average_pairs(read, lambda one, other: float(one is not None and one == other)))


def _count_same_paths(record: Record) -> Columns:
    return _average(_average_pairs([_find_path(record, said) for said in record["drawn"]], compare_orders))


def _average_pairs(found: Sequence[Any], compare: Callable[[Any, Any], float]) -> float:
    pairs = list(combinations(found, 2))
    return sum(compare(*pair) for pair in pairs) / len(pairs)
