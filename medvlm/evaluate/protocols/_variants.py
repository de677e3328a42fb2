"""Asks each question as it is and again in other forms, and compares the answers.

A variant has a name such as `jpeg 3`: its family and its number. Variants of a family differ in degree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NotRequired

import numpy as np

from medvlm.core.ask import Ask, CutAnswer
from medvlm.core.protocols import Answerer, Record, Row, Split
from medvlm.core.sample import Question, truth_from_json
from medvlm.core.tasks import is_scored
from medvlm.evaluate.protocols._final import find_final
from medvlm.evaluate.protocols._questions import collect_records, describe, list_asks, name_cluster, plan_questions
from medvlm.evaluate.protocols._robustness import (
    CONSISTENT,
    UNCHANGED,
    Share,
    average_scores,
    list_shares,
    make_measure,
    make_part,
    make_ratio_row,
)
from medvlm.evaluate.protocols._rows import AskedRecord
from medvlm.evaluate.protocols._sensitivity import is_same
from medvlm.evaluate.rows import Part, make_row

TOGETHER = 64
"""Maximum number of questions that are asked together."""
AS_IT_IS = "as_it_is"
"""Baseline: the answer to the question as it is."""
ListVariants = Callable[[Ask], Sequence[str]]
"""The names of the variants of a question. Raises DataError if it has none, with a reason that others share."""
MakeVariant = Callable[[Ask, str], Ask]


class FORM(AskedRecord):
    """variants: name -> answer. own: name -> the truth of a variant, where it has its own."""

    answer: str
    variants: dict[str, str]
    own: NotRequired[dict[str, Any]]


def is_asked(question: Question) -> bool:
    return is_scored(question.truth)


def ask_variants(
    model: Answerer, split: Split, list_variants: Callable[[Ask, Counter[str]], Sequence[str]], make: MakeVariant
) -> Iterator[Record]:
    """A record for each question that has variants. list_variants: (ask, reasons) -> names; it counts why there are
    none."""
    plan = plan_questions(split, is_asked, TOGETHER)
    alone = [None] * len(plan.samples)

    def do(number: int) -> Record:
        left_out: Counter[str] = Counter()
        asks = [each for each, _ in list_asks(model, split, plan.pieces[number], alone, is_asked, left_out)]
        named = [(each, names) for each in asks if (names := list_variants(each, left_out))]
        answers = _answer(model, [each for each, _ in named])
        records = [
            {
                "key": each.sample.key,
                "cluster": plan.clusters[name_cluster(each.sample)],
                **describe(each, model),
                "answer": answer,
                "variants": {},
                "own": {},
                "cut": ["answer"] if isinstance(answer, CutAnswer) else [],
            }
            for (each, _), answer in zip(named, answers, strict=True)
        ]
        # One variant of all questions after the other: questions about a sample share its picture.
        for name in dict.fromkeys(name for _, names in named for name in names):
            having = [n for n, (_, names) in enumerate(named) if name in names]
            made = [make(named[n][0], name) for n in having]
            for n, each, answer in zip(having, made, _answer(model, made), strict=True):
                _note(records[n], name, named[n][0], each, answer)
        return {"records": records, "left_out": left_out}

    yield from collect_records(split, plan, do)


def _answer(model: Answerer, asks: Sequence[Ask]) -> list[str]:
    answers = model.answer(asks) if asks else ()
    return [find_final(said, each.question.truth) for each, said in zip(asks, answers, strict=True)]


def _note(record: dict[str, Any], name: str, ask: Ask, variant: Ask, answer: str) -> None:
    record["variants"][name] = answer
    if isinstance(answer, CutAnswer):
        record["cut"].append(name)
    if variant.question.truth != ask.question.truth:
        record["own"][name] = {"truth": variant.question.truth.to_json(), "points": None}


def rows_of(group: str, records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    """For each metric that is a mean of scores, its value over all variants and the relative robustness; for the first
    one of each kind of question, of each family and variant too. And how many answers stay the same."""
    names = list(dict.fromkeys(name for record in records for name in record["variants"]))
    flat = [{**record, **record["variants"]} for record in records]
    rows: list[Row] = []
    for share in list_shares(flat, names, settings) if names else ():
        for label, chosen in _list_details(names) if share.is_main else [("", names)]:
            rows += _compare(group, share, label, chosen, settings)
    for label, chosen in _list_details(names):
        if _is_family(label) and (part := make_part(records, partial(_find_kept, chosen))):
            measure = make_measure(UNCHANGED, group, is_judged=False)
            rows.append(make_row(measure, f"{UNCHANGED}{label}", [part], settings))
    if part := make_part(records, partial(_find_consistent, names)):
        rows.append(make_row(make_measure(CONSISTENT, group, is_judged=False), CONSISTENT, [part], settings))
    return rows


def _compare(group: str, share: Share, label: str, names: Sequence[str], settings: Mapping[str, Any]) -> Iterator[Row]:
    """The row of the metric, and of its relative robustness if it is about a whole family."""
    there = [share.part.columns[name] for name in names if name in share.part.columns]
    score_N = average_scores(there) if there else np.array([])
    kept = np.flatnonzero(~np.isnan(score_N)).tolist()
    if not kept:
        return
    own_K2, score_K2 = (
        np.stack([of_N[kept], np.ones(len(kept))], axis=1) for of_N in (share.part.columns["answer"][:, 0], score_N)
    )
    numbers, clusters = ([of[n] for n in kept] for of in (share.part.numbers, share.part.clusters))
    columns = {"answer": score_K2, **({AS_IT_IS: own_K2} if AS_IT_IS in settings["baselines"] else {})}
    yield make_row(
        make_measure(share.name, group), f"{share.name}{label}", [Part(numbers, columns, clusters)], settings
    )
    if _is_family(label) and own_K2[:, 0].sum() > 0:
        both = Part(numbers, {"answer": np.hstack([own_K2, score_K2])}, clusters)
        yield make_ratio_row(share.name, group, label, both, settings)


def _list_details(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(label, variants) of all, of each family, and of each variant."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.rpartition(" ")[0], []).append(name)
    found = [("", list(names))]
    if len(families) > 1:
        found += [(f":{family}", of) for family, of in families.items()]
    return found + [(f":{name}", [name]) for of in families.values() if len(of) > 1 for name in of]


def _is_family(label: str) -> bool:
    return " " not in label


def _list_same(record: Record, names: Sequence[str]) -> list[bool]:
    """Whether the answers to these variants say the same as that to the question as it is."""
    truth = truth_from_json(record["truth"])
    own = {name: truth_from_json(of["truth"]) for name, of in (record.get("own") or {}).items()}
    variants = record["variants"]
    return [is_same(record["answer"], variants[name], truth, own.get(name)) for name in names if name in variants]


def _find_kept(names: Sequence[str], record: Record) -> float | None:
    same = _list_same(record, names)
    return sum(same) / len(same) if same else None


def _find_consistent(names: Sequence[str], record: Record) -> float | None:
    same = _list_same(record, names)
    return float(all(same)) if same else None
