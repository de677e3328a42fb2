"""Questions asked of a model and of its baselines, whoever answers them; and the rows that follow from the records.

Baselines: the same model without the images (`blind`), with another sample's images (`shuffled`), and the best constant
answers of the training data (`majority`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.ask import Ask, Files
from medvlm.core.measure import Measure
from medvlm.core.protocols import Asked, Record, Row, Split
from medvlm.core.sample import Question, Sample, Truth, truth_from_json
from medvlm.core.tasks import find_task
from medvlm.evaluate.measures import list_measures
from medvlm.evaluate.protocols._majority import fit_majority
from medvlm.evaluate.protocols._shuffle import partners
from medvlm.evaluate.rows import Part, find_value, make_row
from medvlm.rewards._compose import Composer

BLIND, SHUFFLED, MAJORITY = "blind", "shuffled", "majority"
CHUNK = 64
GALLERY = 24
"""Samples of which the report shows what the model saw."""
Say = Callable[[Sequence[Ask]], Sequence[Any]]
"""Answers in the order of the asks."""
IsAsked = Callable[[Question], bool]


def ask_questions(model: Asked, split: Split, say: Say, is_asked: IsAsked) -> Iterator[Record]:
    """say: of the model. is_asked: whether a question is one that it answers.

    A record a question, with `score`, in [0, 1], as the gallery marks it, and the parts of the reward.

    cluster: a number that samples of one patient share (a sample without a patient has its own).
    """
    composer = Composer(split.rewards) if split.rewards else None
    majority = None
    if MAJORITY in split.baselines:
        majority = fit_majority(model, split.shards, split.training(), split.progress, is_asked)
    samples = [split.shards.read(*place)[0] for place in split.places]
    partner = partners(samples, split.seed) if SHUFFLED in split.baselines else [None] * len(samples)
    clusters: dict[str, int] = {}
    total = sum(map(is_asked, (question for sample in samples for question in sample.questions)))
    done, shown = 0, set[str]()
    asks = _asks(split, partner, is_asked)
    while chunk := list(islice(asks, CHUNK)):
        said = _answer(say, chunk, split.baselines)
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
    say: Say, chunk: Sequence[tuple[Ask, tuple[Sample, Files] | None]], baselines: Sequence[str]
) -> dict[str, Sequence[Any]]:
    """What the model says, and what it says without the images and with those of another sample."""
    asks = [each for each, _ in chunk]
    answers = say(asks)
    blind: Sequence[Any] = [None] * len(chunk)
    if BLIND in baselines:
        blind = say([Ask(a.sample, a.files, a.question, "none") for a in asks])
    assert len(answers) == len(blind) == len(chunk), (len(answers), len(blind), len(chunk))
    return {"answer": answers, BLIND: blind, SHUFFLED: _shuffled(say, chunk)}


def _describe(ask: Ask, model: Asked) -> Record:
    truth = ask.question.truth
    is_placed = find_task(truth.task).has_coordinates(truth)
    return {
        "template": ask.question.template,
        "task": truth.task,
        "question": ask.question.text,
        "truth": (model.place_truth(ask) if is_placed else truth).to_json(),
        "scale": list(model.find_box_extent(ask)) if is_placed else None,
    }


def _judge(record: Record, composer: Composer | None) -> Record:
    truth = truth_from_json(record["truth"])
    judged = composer is not None and composer.applies(truth)
    rewards: dict[str, Any] = composer.score(record["answer"], truth)[1] if composer and judged else {}
    score = find_task(truth.task).score
    return {"score": score(record["answer"], truth) if score else None, "rewards": rewards}


def _asks(
    split: Split, partner: Sequence[int | None], is_asked: IsAsked
) -> Iterator[tuple[Ask, tuple[Sample, Files] | None]]:
    """Each ask, and the sample whose media the `shuffled` baseline shows; both are read when their turn comes."""
    for number, place in enumerate(split.places):
        sample, files = split.shards.read(*place)
        asked = [question for question in sample.questions if is_asked(question)]
        other = partner[number]
        shown = split.shards.read(*split.places[other]) if asked and other is not None else None
        for question in asked:
            yield Ask(sample, files, question), shown


def _shuffled(say: Say, chunk: Sequence[tuple[Ask, tuple[Sample, Files] | None]]) -> list[Any]:
    """None for a sample that has no partner."""
    asks = [Ask(ask.sample, ask.files, ask.question, media_of=other) for ask, other in chunk if other]
    answers = iter(say(asks)) if asks else iter(())
    return [next(answers) if other else None for _, other in chunk]


def _save(path: Path, model: Asked, ask: Ask) -> None:
    if ask.sample.media:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.draw_thumbnail(ask))


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    truths = [truth_from_json(record["truth"]) for record in records]
    rows = []
    for measure in list_measures({truth.task for truth in truths}, settings["rewards"]):
        about = [n for n, record in enumerate(records) if measure.is_about(record["template"], truths[n])]
        # A baseline that could not answer every question (no partner to shuffle with) is left out of the row.
        who = [w for w in ("answer", *settings["baselines"]) if all(records[n].get(w) is not None for n in about)]
        if about and "answer" in who:
            parts = _part(measure, records, truths, about, who)
            for metric, keys in _name_rows(measure, parts).items():
                chosen = [parts[key] for key in keys]
                if not isnan(find_value(measure, chosen)):
                    rows.append(make_row(measure, metric, chosen, settings))
    return rows


Key = tuple[str, str]
"""Template and class, "" for all of them."""


def _part(
    measure: Measure, records: Sequence[Record], truths: Sequence[Truth], about: Sequence[int], who: Sequence[str]
) -> dict[Key, Part]:
    """All questions and those of each template, or of a measure by class those of each class of a template."""
    numbers: dict[Key, list[int]] = {}
    columns: dict[Key, dict[str, list[tuple[float, ...]]]] = {}
    for n in about:
        template = records[n]["template"]
        said: dict[str, Any] = {w: measure.columns(_said_by(w, records[n], measure.metric), truths[n]) for w in who}
        keys = [(template, name) for name in said["answer"]] if measure.by_class else [("", ""), (template, "")]
        for key in keys:
            numbers.setdefault(key, []).append(n)
            own = columns.setdefault(key, {w: [] for w in who})
            for w in who:
                own[w].append(said[w][key[1]] if measure.by_class else said[w])
    return {
        key: Part(
            numbers[key],
            {w: np.array(of_who) for w, of_who in own.items()},
            [records[n]["cluster"] for n in numbers[key]],
        )
        for key, own in columns.items()
    }


def _name_rows(measure: Measure, parts: Mapping[Key, Part]) -> dict[str, list[Key]]:
    """What each row is called, and the parts that it is a mean of."""
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


def _said_by(who: str, record: Record, metric: str) -> Any:
    """An answer; of the majority baseline the constant for this metric, where it has one of its own."""
    constants: dict[str, Any] = record.get("constants") or {} if who == MAJORITY else {}
    return constants.get(metric, record[who])
