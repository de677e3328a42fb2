"""Asks every question again in other words: whether answers depend on the wording.

Rows of the group `reworded` for each metric that is a mean of scores (`accuracy`, ...), compared with the answers to
the questions as they are (`as_it_is`): over all wordings, and of each one (`accuracy:frame 2`); `rr_accuracy`, the
relative robustness; `unchanged`, the share of answers that stay the same; `consistent`, the share of questions whose
answers all do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medvlm.core.ask import Ask
from medvlm.core.content import Content
from medvlm.core.errors import did_you_mean, list_some
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Row, Split
from medvlm.core.tasks import is_scored_task
from medvlm.evaluate.protocols import _robustness, _variants

NEEDS = "answer"
BASELINES = (_variants.AS_IT_IS,)
NOTHING = "no question that can be scored and has another wording"
BY_NAME_ONLY = True
FORM = _variants.FORM
GAP = "{question}"


class Config(ProtocolConfig):
    kind: Literal["rewordings"] = "rewordings"
    frames: tuple[str, ...] = (
        "Look at the image and answer the question.\n{question}",
        "{question}\nAnswer as briefly as possible.",
        "You are reading a medical image.\nQuestion: {question}\nAnswer:",
    )
    """Texts with {question}, in which every question is put. What follows a question needs a line of its own, because
    the last line of a question may be an option."""
    templates: dict[str, tuple[str, ...]] = Field({})
    """Template -> other texts of its questions, which must all ask the same, e.g. the wordings of the card."""

    @field_validator("frames")
    @classmethod
    def _have_a_gap(cls, frames: tuple[str, ...]) -> tuple[str, ...]:
        for frame in frames:
            if GAP not in frame:
                raise ValueError(f"{frame!r} has no {GAP}; write e.g. 'Look at the image. {GAP}'")
        return frames

    @model_validator(mode="after")
    def _rewords(self) -> Config:
        if not self.frames and not any(self.templates.values()):
            raise ValueError("rewords nothing; give `frames` or `templates`")
        return self


def can_ask(content: Content, model: Any) -> bool:
    return content.tasks is None or any(map(is_scored_task, content.tasks))


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    _note_unknown(config, split)

    def list_wordings(asked: Ask, left_out: Counter[str]) -> Sequence[str]:
        wordings = reword(config, asked)
        if not wordings:
            left_out[f"{asked.question.template}: no other wording"] += 1
        return list(wordings)

    def make(asked: Ask, name: str) -> Ask:
        return replace(asked, question=replace(asked.question, text=reword(config, asked)[name]))

    return _variants.ask_variants(model, split, list_wordings, make)


def reword(config: Config, asked: Ask) -> dict[str, str]:
    """Name (`wording 1` of its template, `frame 1`) -> another text of the question."""
    text = asked.question.text
    texts = {
        "wording": config.templates.get(asked.question.template, ()),
        "frame": [frame.replace(GAP, text) for frame in config.frames],
    }
    return {
        f"{kind} {number}": each
        for kind, of_kind in texts.items()
        for number, each in enumerate(of_kind, start=1)
        if each != text
    }


def _note_unknown(config: Config, split: Split) -> None:
    if config.templates:
        samples = (split.shards.read(*place)[0] for place in split.places)
        known = {question.template for sample in samples for question in sample.questions}
        for name in sorted(config.templates.keys() - known):
            close = did_you_mean(name, known) or f" (they have {list_some(sorted(known))})"
            split.notes.append(f"rewordings.templates: no question has the template {name!r}{close}")


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    return _variants.rows_of(_robustness.REWORDED, records, settings)
