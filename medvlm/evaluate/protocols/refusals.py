"""Asks questions that have no answer: does a model refuse them, and only them?

A question is asked with its own image, with an image of another modality, and without an image. tasks/_refusals.py says
when an answer refuses. Rows of the group `refusals`:

- `refused_other_modality`, `refused_no_image`: the share of these questions that the model refuses. As baseline
  `own_image`, the share that it refuses with their own image: a model that refuses everything is not better.
- `refused_unanswerable`: the share of the questions that it refuses whose templates the settings call unanswerable.
- `false_refusals`: the share of the other questions that it refuses with their own image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from medvlm.core.ask import Ask
from medvlm.core.content import Content
from medvlm.core.errors import did_you_mean, list_some
from medvlm.core.measure import Measure, average
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Question, Sample, truth_from_json
from medvlm.core.tasks import find_task, is_scored, is_scored_task
from medvlm.data.order import draw
from medvlm.data.rationale import ask_for
from medvlm.evaluate.protocols import _models
from medvlm.evaluate.protocols._final import find_final
from medvlm.evaluate.protocols._models import MODELS, list_models
from medvlm.evaluate.protocols._questions import collect_records, describe, list_asks, name_cluster, plan_questions
from medvlm.evaluate.protocols._rows import AskedRecord
from medvlm.evaluate.rows import Part, make_row
from medvlm.tasks._refusals import is_refusal

NEEDS = "answer"
OWN, OTHER, NONE = "own_image", "other_modality", "no_image"
BASELINES = (OWN,)
NOTHING = "no question about an image that is answered in a short text"
BY_NAME_ONLY = True
TOGETHER = 64
"""Maximum number of questions that are asked together."""
merge = _models.merge


class Config(ProtocolConfig):
    kind: Literal["refusals"] = "refusals"
    by: str = ""
    """The group of the samples that says the modality; by default `modality` of their media in the card."""
    unanswerable: tuple[str, ...] = ()
    """Templates of questions that cannot be answered from their images."""
    prompt: str = "If this cannot be answered from the image, say so."
    """What is added to every question; "" for nothing."""


class FORM(AskedRecord):
    unanswerable: bool
    own_image: str
    other_modality: str | None
    no_image: str | None


def can_ask(content: Content, model: Any) -> bool:
    is_asked = content.tasks is None or any(map(_is_asked_task, content.tasks))
    return is_asked and (content.media is None or bool(content.media))


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    plan = plan_questions(split, _is_asked, TOGETHER)
    partner = _choose_partners(plan.samples, config.by, split.seed)
    _note(config, plan.samples, partner, split)

    def do(number: int) -> Record:
        left_out: Counter[str] = Counter()
        listed = list_asks(model, split, plan.pieces[number], partner, _is_asked, left_out)
        asks = [(_change(each, config.prompt), other) for each, other in listed if each.sample.media]
        is_open = [each.question.template not in config.unanswerable for each, _ in asks]
        others: list[Ask | None] = [
            replace(each, media_of=other) if other and may else None
            for (each, other), may in zip(asks, is_open, strict=True)
        ]
        nothing = [replace(each, shows="none") if may else None for (each, _), may in zip(asks, is_open, strict=True)]
        answers = {
            OWN: _answer(model, [each for each, _ in asks]),
            OTHER: _answer(model, others),
            NONE: _answer(model, nothing),
        }
        records = [
            {
                "key": each.sample.key,
                "cluster": plan.clusters[name_cluster(each.sample)],
                **describe(each, model),
                "unanswerable": not is_open[n],
                **{who: of_who[n] for who, of_who in answers.items()},
            }
            for n, (each, _) in enumerate(asks)
        ]
        return {"records": records, "left_out": left_out}

    yield from collect_records(split, plan, do)


def _is_asked(question: Question) -> bool:
    return is_scored(question.truth) and _is_asked_task(question.truth.task)


def _is_asked_task(kind: str) -> bool:
    """Boxes are left out: `none` may be an answer or a refusal."""
    return is_scored_task(kind) and not find_task(kind).NEEDS_CANVAS


def _change(each: Ask, prompt: str) -> Ask:
    return replace(each, question=ask_for(each.question, prompt)) if prompt else each


def _answer(model: Answerer, asks: Sequence[Ask | None]) -> list[str | None]:
    """None for those that are not asked."""
    asked = [each for each in asks if each is not None]
    answers = iter(model.answer(asked) if asked else ())
    return [None if each is None else str(find_final(next(answers), each.question.truth)) for each in asks]


def _choose_partners(samples: Sequence[Sample], by: str, seed: int) -> list[int | None]:
    """For each sample the position of one of another modality and another patient; None if there is none, or if its
    own modality is unknown."""
    of_modality: dict[str, list[int]] = defaultdict(list)
    for position, sample in enumerate(samples):
        if sample.media and (modality := _find_modality(sample, by)):
            of_modality[modality].append(position)
    partner: list[int | None] = [None] * len(samples)
    for modality, positions in of_modality.items():
        others = [n for name, of_other in of_modality.items() if name != modality for n in of_other]
        for position in positions:
            own = samples[position].patient
            kept = [n for n in others if not own or samples[n].patient != own]
            if kept:
                partner[position] = kept[int(draw(seed, samples[position].key, "other modality").integers(len(kept)))]
    return partner


def _find_modality(sample: Sample, by: str) -> str:
    return sample.groups.get(by, "") if by else sample.media[0].modality.casefold()


def _note(config: Config, samples: Sequence[Sample], partner: Sequence[int | None], split: Split) -> None:
    asked = {question.template for sample in samples for question in sample.questions if _is_asked(question)}
    for template in sorted(set(config.unanswerable) - asked):
        known = did_you_mean(template, asked) or f" (they have {list_some(sorted(asked))})"
        split.notes.append(f"refusals.unanswerable: no question has the template {template!r}{known}")
    groups = sorted({name for sample in samples for name in sample.groups})
    if config.by and config.by not in groups:
        split.notes.append(f"refusals.by: no sample has {config.by!r} (they have {list_some(groups) or 'no groups'})")
    if not any(each is not None for each in partner):
        where = f"the group {config.by!r} has" if config.by else "the media of the card have"
        split.notes.append(f"refusals: {where} fewer than two modalities, so no image of another one is shown")


# --- rows -------------------------------------------------------------------------------------------


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return [make_row(*found, settings) for found in list_parts(records, settings)]


def list_parts(records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[tuple[Measure, str, list[Part]]]:
    models = list_models(records)

    def make(metric: str, better: Literal["higher", "lower"], who: str, of: Callable[[Record], bool]) -> Any:
        chosen = [(n, record) for n, record in enumerate(records) if of(record)]
        columns = {"answer": [_refuses(record, who) for _, record in chosen]}
        if who != OWN and OWN in settings["baselines"]:
            columns[OWN] = [_refuses(record, OWN) for _, record in chosen]
        columns |= {name: [_refuses(record[MODELS][name], who) for _, record in chosen] for name in models}
        measure = Measure(metric, "refusals", average(lambda answer, truth: answer), better=better)
        made = {name: np.array(of_who) for name, of_who in columns.items()}
        part = Part([n for n, _ in chosen], made, [record["cluster"] for _, record in chosen])
        return [(measure, metric, [part])] if chosen else []

    yield from make("refused_other_modality", "higher", OTHER, lambda record: record[OTHER] is not None)
    yield from make("refused_no_image", "higher", NONE, lambda record: record[NONE] is not None)
    yield from make("refused_unanswerable", "higher", OWN, lambda record: record["unanswerable"])
    yield from make("false_refusals", "lower", OWN, lambda record: not record["unanswerable"])


def _refuses(record: Record, who: str) -> tuple[float, float]:
    if record[who] is None:
        return np.nan, np.nan
    return float(is_refusal(record[who], truth_from_json(record["truth"]))), 1.0
