"""Draws several random answers to every question: whether a model knows more than its greedy answer shows.

Rows of the group `draws`, over all questions and for each task, compared with the greedy answers (`greedy`):

- `mean`: the mean score of the drawn answers.
- `best`: the score of the best of them.
- `pass_K`: how often one of K answers is right (has a score of at least 0.5), estimated without bias.
- `vote`: the score of the answer that is drawn most often.
- `no_spread`: the share of questions whose drawn answers all have the same score. Reinforcement learns nothing from
  them.

The score is the reward of the recipe where it judges the question, else the task's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medvlm.core.ask import CutAnswer
from medvlm.core.content import Content
from medvlm.core.measure import Measure, average
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Row, Split, SplitRecord
from medvlm.core.sample import Question, Truth, truth_from_json
from medvlm.core.tasks import find_task, is_scored, is_scored_task
from medvlm.evaluate.protocols._final import find_final
from medvlm.evaluate.protocols._questions import collect_records, describe, list_asks, name_cluster, plan_questions
from medvlm.evaluate.rows import Part, make_row
from medvlm.metrics.draws import pass_at
from medvlm.rewards._compose import Composer

NEEDS = "draw"
BASELINES = ("greedy",)
NOTHING = "no question that can be scored"
BY_NAME_ONLY = True
TOGETHER = 128
"""Maximum number of answers that are drawn together."""
RIGHT = 0.5
"""The least score of a right answer."""


class Config(ProtocolConfig):
    kind: Literal["random_answers"] = "random_answers"
    draws: int = Field(8, ge=2, le=64)
    """Number of answers to each question."""
    temperature: float = Field(1.0, gt=0)


class FORM(SplitRecord):
    key: str
    cluster: int
    template: str
    task: str
    question: str
    answer: str
    drawn: list[str]
    greedy: float
    scores: list[float]
    vote: float


def can_ask(content: Content, model: Any) -> bool:
    return content.tasks is None or any(map(is_scored_task, content.tasks))


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    composer = Composer(split.rewards) if split.rewards else None
    plan = plan_questions(split, _is_asked, max(1, TOGETHER // config.draws))
    alone = [None] * len(plan.samples)

    def do(number: int) -> Record:
        left_out: Counter[str] = Counter()
        asks = [each for each, _ in list_asks(model, split, plan.pieces[number], alone, _is_asked, left_out)]
        greedy = model.answer(asks) if asks else []
        drawn = model.draw(asks, config.draws, config.temperature, split.seed) if asks else []
        records = []
        for each, answer, answers in zip(asks, greedy, drawn, strict=True):
            described = describe(each, model)
            truth = truth_from_json(described["truth"])
            records.append(
                {
                    "key": each.sample.key,
                    "cluster": plan.clusters[name_cluster(each.sample)],
                    **described,
                    "answer": answer,
                    "drawn": answers,
                    "greedy": _score(answer, truth, composer),
                    "scores": [_score(one, truth, composer) for one in answers],
                    "vote": _score(_vote(answers, truth), truth, composer),
                }
            )
        return {"records": records, "left_out": left_out}

    yield from collect_records(split, plan, do)


def _is_asked(question: Question) -> bool:
    return is_scored(question.truth)


def _score(answer: str, truth: Truth, composer: Composer | None) -> float:
    """An answer that was cut counts as none, as in evaluation."""
    said = "" if isinstance(answer, CutAnswer) else answer
    if composer is not None and composer.applies(truth):
        return float(composer.score(said, truth)[0])
    score = find_task(truth.task).score
    assert score is not None, truth.task
    return float(score(find_final(said, truth), truth))


def _vote(answers: Sequence[str], truth: Truth) -> str:
    """The first of the answers that are read alike most often; those that cannot be read have no vote."""
    parse = find_task(truth.task).parse
    read = [None if isinstance(each, CutAnswer) else parse(find_final(each, truth), truth) for each in answers]
    counts = Counter(str(each) for each in read if each is not None)
    if not counts:
        return ""
    (most, _), *_ = counts.most_common(1)
    return next(answer for answer, each in zip(answers, read, strict=True) if each is not None and str(each) == most)


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for task in ("", *dict.fromkeys(record["task"] for record in records)):
        of_task = [record for record in records if task in ("", record["task"])]
        for name, values in _measure(of_task).items():
            own = {"answer": _make_column(values)}
            if name != "no_spread":
                own["greedy"] = _make_column([record["greedy"] for record in of_task])
            if name.startswith("pass"):
                own["greedy"] = _make_column([float(record["greedy"] >= RIGHT) for record in of_task])
            better: Literal["higher"] | None = None if name == "no_spread" else "higher"
            measure = Measure(name, "draws", average(lambda answer, truth: answer), better=better)
            part = Part(range(len(of_task)), own, [record["cluster"] for record in of_task])
            rows.append(make_row(measure, f"{name}:{task}" if task else name, [part], settings))
    return rows


def _make_column(values: Sequence[float]) -> np.ndarray:
    return np.array([(value, 1.0) for value in values])


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Row -> the value of each question."""
    if not records:
        return {}
    most = min(len(record["scores"]) for record in records)
    num_right = [sum(score >= RIGHT for score in record["scores"]) for record in records]
    passed = {
        f"pass_{k}": [pass_at(k, len(record["scores"]), n) for record, n in zip(records, num_right, strict=True)]
        for k in (1, 2, 4, 8, 16, 32, 64)
        if k <= most
    }
    return {
        "mean": [sum(record["scores"]) / len(record["scores"]) for record in records],
        "best": [max(record["scores"]) for record in records],
        **passed,
        "vote": [record["vote"] for record in records],
        "no_spread": [float(max(record["scores"]) - min(record["scores"]) < 1e-9) for record in records],
    }
