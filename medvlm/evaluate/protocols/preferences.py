"""Compares the probabilities of the preferred and the rejected answer of each pair.

Rows of the group `preferences`:

- `preferred`: the share of pairs whose preferred answer is more probable.
- `preferred_per_token`: the same of the log-probabilities per token, so that a short answer has no advantage.

Baselines: the same model without the images (`blind`), and with the images of another patient (`shuffled`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NotRequired

import numpy as np

from medvlm.core.ask import Ask
from medvlm.core.content import Content
from medvlm.core.measure import Measure, average
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Row, Split, SplitRecord
from medvlm.core.sample import Question
from medvlm.core.tasks import list_pair_tasks
from medvlm.core.turns import tell
from medvlm.evaluate.protocols._questions import CHUNK, collect_records, list_asks, name_cluster, plan_questions
from medvlm.evaluate.protocols._rows import BLIND, SHUFFLED
from medvlm.evaluate.protocols._shuffle import draw_partners
from medvlm.evaluate.rows import Part, make_row

NEEDS = "weigh"
BASELINES = (BLIND, SHUFFLED)
NOTHING = "no pair of a preferred and a rejected answer"
Weights = list[list[float]]
"""Of the preferred and the rejected answer: log-probability and number of tokens."""


class Config(ProtocolConfig):
    kind: Literal["preferences"] = "preferences"


class FORM(SplitRecord):
    key: str
    cluster: int
    template: str
    pair: dict[str, str]
    answer: Weights
    blind: NotRequired[Weights | None]
    shuffled: NotRequired[Weights | None]


def can_ask(content: Content, model: Any) -> bool:
    return content.tasks is None or any(task in content.tasks for task in list_pair_tasks())


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    plan = plan_questions(split, _is_asked, CHUNK)
    partner = draw_partners(plan.samples, split.seed) if SHUFFLED in split.baselines else [None] * len(plan.samples)

    def do(number: int) -> Record:
        left_out: Counter[str] = Counter()
        found = list(list_asks(model, split, plan.pieces[number], partner, _is_asked, left_out))
        asks: dict[str, list[Ask | None]] = {"answer": [each for each, _ in found]}
        if BLIND in split.baselines:
            asks[BLIND] = [Ask(a.sample, a.files, a.question, "none") if a.sample.media else None for a, _ in found]
        if SHUFFLED in split.baselines:
            asks[SHUFFLED] = [Ask(a.sample, a.files, a.question, media_of=of) if of else None for a, of in found]
        weights = {who: _weigh(model, own) for who, own in asks.items()}
        records = [
            {
                "key": each.sample.key,
                "cluster": plan.clusters[name_cluster(each.sample)],
                "template": each.question.template,
                "pair": _show_pair(each.question),
                **{who: own[at] for who, own in weights.items()},
            }
            for at, (each, _) in enumerate(found)
        ]
        return {"records": records, "left_out": left_out}

    yield from collect_records(split, plan, do)


def _is_asked(question: Question) -> bool:
    return question.truth.task in list_pair_tasks()


def _show_pair(question: Question) -> dict[str, str]:
    truth: Any = question.truth
    return {"question": tell(question), "preferred": truth.answer, "rejected": truth.rejected}


def _weigh(model: Answerer, asks: Sequence[Ask | None]) -> list[Weights | None]:
    given = [each for each in asks if each is not None]
    texts = [(each.question.truth.answer, each.question.truth.rejected) for each in given]  # type: ignore[attr-defined]
    found = iter(model.weigh(given, texts) if given else ())
    return [[list(pair) for pair in next(found)] if each is not None else None for each in asks]


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    if not records:
        return []
    rows = []
    clusters = [record["cluster"] for record in records]
    for metric in ("preferred", "preferred_per_token"):
        columns = {
            who: np.array([_judge(record[who], metric) for record in records])
            for who in ("answer", *settings["baselines"])
            if any(record.get(who) for record in records)
        }
        measure = Measure(metric, "preferences", average(lambda answer, truth: answer))
        rows.append(make_row(measure, metric, [Part(range(len(records)), columns, clusters)], settings))
    return rows


def _judge(weights: Weights | None, metric: str) -> tuple[float, float]:
    """1 if the preferred answer is more probable, a half if both are as probable; NaN for what was not asked."""
    if not weights:
        return np.nan, np.nan
    (better, tokens), (worse, others) = weights
    if metric == "preferred_per_token":
        better, worse = better / tokens, worse / others
    return float(np.heaviside(better - worse, 0.5)), 1.0
