"""Asks every multiple-choice question with its options in all cyclic orders: whether answers depend on the order.

Of n options, each order moves the options one line further down, so that each stands once behind each letter. The
letters stay. Rows of the group `reordered`:

- `accuracy` over the other orders and at each of them, compared with the question as it is (`as_it_is`), and
  `rr_accuracy`, the relative robustness.
- `circular_accuracy`: the share of questions that are right in all orders (CircularEval of MMBench, Liu et al. 2023,
  https://arxiv.org/abs/2307.06281).
- `consistent`: the share of questions for which the same option is chosen in all orders, and `unchanged`, the share of
  orders in which it is that of the question as it is.
- `place:A`: how often the option behind a letter is chosen over all orders, beside `chance`. A model that reads the
  options chooses each letter equally often, because each option stands there once.

Only questions whose text lists its choices, each in a line with a letter, can be asked so; others are left out and
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from medvlm.core.ask import Ask
from medvlm.core.content import Content
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Question, Truth, truth_from_json
from medvlm.core.tasks import find_task, is_scored_task
from medvlm.evaluate.protocols import _robustness, _variants
from medvlm.evaluate.protocols._options import find_options, turn
from medvlm.evaluate.protocols._rows import CHANCE, is_lost
from medvlm.evaluate.rows import make_row

NEEDS = "answer"
BASELINES = (_variants.AS_IT_IS, CHANCE)
NOTHING = "no question whose text lists its choices, each in a line with a letter"
BY_NAME_ONLY = True
FORM = _variants.FORM
RIGHT = 0.5
"""The least score of a right answer."""


class Config(ProtocolConfig):
    kind: Literal["option_orders"] = "option_orders"


def can_ask(content: Content, model: Any) -> bool:
    return content.tasks is None or any(
        is_scored_task(task) and find_task(task).list_choices is not None for task in content.tasks
    )


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    return _variants.ask_variants(model, split, _list_orders, _reorder)


def _list_orders(asked: Ask, left_out: Counter[str]) -> Sequence[str]:
    options = find_options(asked.question)
    if options is None:
        left_out["the text does not list the choices, each in a line with a letter"] += 1
        return ()
    return [f"order {steps}" for steps in range(1, len(options))]


def _reorder(asked: Ask, name: str) -> Ask:
    options = find_options(asked.question)
    assert options is not None, asked.question
    return replace(asked, question=turn(asked.question, options, _find_steps(name)))


def _find_steps(name: str) -> int:
    return int(name.rpartition(" ")[2])


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    group = _robustness.REORDERED
    rows = _variants.rows_of(group, records, settings)
    if part := _robustness.make_part(records, _is_right_in_all):
        rows.append(
            make_row(_robustness.make_measure("circular_accuracy", group), "circular_accuracy", [part], settings)
        )
    for place in range(max((len(record["variants"]) + 1 for record in records), default=0)):
        part = _robustness.make_part(records, partial(_find_share_of_place, place))
        assert part is not None, place
        if CHANCE in settings["baselines"]:
            guess_N = [1 / (len(records[n]["variants"]) + 1) for n in part.numbers]
            part.columns[CHANCE] = np.array([(guess, 1.0) for guess in guess_N])  # type: ignore[index]
        measure = _robustness.make_measure("place", group, is_judged=False)
        rows.append(make_row(measure, f"place:{chr(ord('A') + place)}", [part], settings))
    return rows


def _list_answers(record: Record) -> Iterator[tuple[str, str, Truth, int]]:
    """(who, answer, truth, steps) of each order, the first one as it is."""
    yield "answer", record["answer"], truth_from_json(record["truth"]), 0
    for name, answer in record["variants"].items():
        own = record["own"].get(name, record)["truth"]
        yield name, answer, truth_from_json(own), _find_steps(name)


def _is_right_in_all(record: Record) -> float:
    scores = []
    for who, answer, truth, _ in _list_answers(record):
        score = find_task(truth.task).score
        assert score is not None, truth.task
        scores.append(0.0 if is_lost(who, record) else score(answer, truth))
    return float(min(scores) >= RIGHT)


def _find_share_of_place(place: int, record: Record) -> float | None:
    """How often the option in this line is chosen, of all orders; None for a question without this line."""
    count = len(record["variants"]) + 1
    if place >= count:
        return None
    options = find_options(Question(record["question"], truth_from_json(record["truth"]), record["template"]))
    assert options is not None, record["question"]
    chosen = []
    for _, answer, truth, steps in _list_answers(record):
        task = find_task(truth.task)
        read, choices = task.parse(answer, truth), list(task.list_choices(truth)) if task.list_choices else []
        number = choices.index(read) if read in choices else None
        chosen.append(number in options.places and (options.places.index(number) + steps) % count == place)
    return sum(chosen) / count
