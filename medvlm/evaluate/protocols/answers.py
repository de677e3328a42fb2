"""Every question of a split once, asked of the model and of its baselines.

Baselines: the same model without the images (`blind`), with another sample's images (`shuffled`), and the best constant
answers of the training data (`majority`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import isnan
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medvlm.core.ask import Ask, Files
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Question, Sample, truth_from_json
from medvlm.core.tasks import find_task, is_scored
from medvlm.evaluate.measures import list_measures
from medvlm.evaluate.protocols._majority import fit_majority
from medvlm.evaluate.protocols._shuffle import partners
from medvlm.evaluate.rows import make_row
from medvlm.metrics.bootstrap import value
from medvlm.rewards._compose import Composer

NEEDS = "answer"
BLIND, SHUFFLED, MAJORITY = "blind", "shuffled", "majority"
BASELINES = (BLIND, SHUFFLED, MAJORITY)
NOTHING = "no question that can be scored"
PLACE_IN_OLD_COUNTS = 0
CHUNK = 64
GALLERY = 24
"""Samples of which the report shows what the model saw."""


class Config(ProtocolConfig):
    kind: Literal["answers"] = "answers"


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    """A record a question, with `score`, in [0, 1], as the gallery marks it, and the parts of the reward.

    cluster: a number that samples of one patient share (a sample without a patient has its own).
    """
    composer = Composer(split.rewards) if split.rewards else None
    majority = (
        fit_majority(model, split.shards, split.training(), split.progress) if MAJORITY in split.baselines else None
    )
    samples = [split.shards.read(*place)[0] for place in split.places]
    partner = partners(samples, split.seed) if SHUFFLED in split.baselines else [None] * len(samples)
    clusters: dict[str, int] = {}
    total = sum(len(list_asked(sample)) for sample in samples)
    done, shown = 0, set[str]()
    asks = _asks(split, partner)
    while chunk := list(islice(asks, CHUNK)):
        said = _answer(model, chunk, split.baselines)
        for number, (each, _) in enumerate(chunk):
            key = each.sample.key
            if key not in shown and len(shown) < GALLERY:
                shown.add(key)
                _save(split.gallery / f"{key}.png", model, each)
            record = {
                "key": key,
                "cluster": clusters.setdefault(each.sample.patient or f"sample {key}", len(clusters)),
                **_describe(each, model),
                **{who: answers[number] for who, answers in said.items()},
                "majority": majority.answer(each.question) if majority else None,
                "constants": majority.list_others(each.question) if majority else {},
                "thumb": f"{split.gallery.name}/{key}.png" if key in shown and each.sample.media else None,
            }
            yield {**record, **_judge(record, composer)}
        done += len(chunk)
        split.progress("questions", done, total)


def _answer(
    model: Answerer, chunk: Sequence[tuple[Ask, tuple[Sample, Files] | None]], baselines: Sequence[str]
) -> dict[str, Sequence[str | None]]:
    """What the model says, and what it says without the images and with those of another sample."""
    asks = [each for each, _ in chunk]
    answers = model.answer(asks)
    blind: Sequence[str | None] = [None] * len(chunk)
    if BLIND in baselines:
        blind = model.answer([Ask(a.sample, a.files, a.question, "none") for a in asks])
    assert len(answers) == len(blind) == len(chunk), (len(answers), len(blind), len(chunk))
    return {"answer": answers, BLIND: blind, SHUFFLED: _shuffled(model, chunk)}


def _describe(ask: Ask, model: Answerer) -> Record:
    truth = ask.question.truth
    is_placed = find_task(truth.task).has_coordinates(truth)
    return {
        "template": ask.question.template,
        "task": truth.task,
        "question": ask.question.text,
        "truth": (model.seen(ask) if is_placed else truth).to_json(),
        "scale": list(model.box_extent(ask)) if is_placed else None,
    }


def _judge(record: Record, composer: Composer | None) -> Record:
    truth = truth_from_json(record["truth"])
    judged = composer is not None and composer.applies(truth)
    rewards: dict[str, Any] = composer.score(record["answer"], truth)[1] if composer and judged else {}
    score = find_task(truth.task).score
    return {"score": score(record["answer"], truth) if score else None, "rewards": rewards}


def list_asked(sample: Sample) -> list[Question]:
    """Questions that a text can answer and that can be scored. Reports are not: nothing here scores free text."""
    return [question for question in sample.questions if is_scored(question.truth)]


def _asks(split: Split, partner: Sequence[int | None]) -> Iterator[tuple[Ask, tuple[Sample, Files] | None]]:
    """Each ask, and the sample whose media the `shuffled` baseline shows; both are read when their turn comes."""
    for number, place in enumerate(split.places):
        sample, files = split.shards.read(*place)
        asked = list_asked(sample)
        other = partner[number]
        shown = split.shards.read(*split.places[other]) if asked and other is not None else None
        for question in asked:
            yield Ask(sample, files, question), shown


def _shuffled(model: Answerer, chunk: Sequence[tuple[Ask, tuple[Sample, Files] | None]]) -> list[str | None]:
    """None for a sample that has no partner."""
    asks = [Ask(ask.sample, ask.files, ask.question, media_of=other) for ask, other in chunk if other]
    answers = iter(model.answer(asks)) if asks else iter(())
    return [next(answers) if other else None for _, other in chunk]


def _save(path: Path, model: Answerer, ask: Ask) -> None:
    if ask.sample.media:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.thumbnail(ask))


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    truths = [truth_from_json(record["truth"]) for record in records]
    rows = []
    for measure in list_measures({truth.task for truth in truths}, settings["rewards"]):
        about = [n for n, record in enumerate(records) if measure.is_about(record["template"], truths[n])]
        columns = {
            who: np.array([measure.columns(_said_by(who, records[n], measure.metric), truths[n]) for n in about])
            for who in ("answer", *settings["baselines"])
            # A baseline that could not answer every question (no partner to shuffle with) is left out of the row.
            if about and all(records[n].get(who) is not None for n in about)
        }
        if not columns or isnan(value(columns["answer"], measure.statistic)):
            continue
        clusters = [records[n]["cluster"] for n in about]
        rows.append(make_row(measure, measure.metric, columns, clusters, settings))
        templates = sorted({records[n]["template"] for n in about}) if measure.by_template else []
        for template in templates:
            chosen = [at for at, n in enumerate(about) if records[n]["template"] == template]
            of_template = {who: items_NK[chosen] for who, items_NK in columns.items()}
            if not isnan(value(of_template["answer"], measure.statistic)):
                own = [clusters[at] for at in chosen]
                rows.append(make_row(measure, f"{measure.metric}:{template}", of_template, own, settings))
    return rows


def _said_by(who: str, record: Record, metric: str) -> Any:
    """An answer; of the majority baseline the constant for this metric, where it has one of its own."""
    constants: dict[str, Any] = record.get("constants") or {} if who == MAJORITY else {}
    return constants.get(metric, record[who])
