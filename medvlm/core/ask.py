"""A question about a sample, as it is put to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from medvlm.core.errors import DataError
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.core.text import has_lone_surrogate

Files = Mapping[str, bytes]
"""Member of a sample, e.g. `0.png` -> its bytes."""


@dataclass(frozen=True)
class Ask:
    """shows: `none` asks without the media; `prompt` is answered by what a prompt alone marks, without a model.
    media_of: another sample, whose media are shown instead. prompt_of: another one, and its question, whose objects a
    prompt shows instead."""

    sample: Sample
    files: Files
    question: Question
    shows: Literal["media", "none", "prompt"] = "media"
    media_of: tuple[Sample, Files] | None = None
    prompt_of: tuple[Sample, Files, Question] | None = None


def make_own_question(text: str) -> Question:
    """A question of the user, with the template `own`. Raises DataError for text that is not Unicode."""
    if has_lone_surrogate(text):  # bytes of a terminal or an argument that are not UTF-8
        raise DataError(f"the question {text!r} has bytes that are not UTF-8; write it in UTF-8")
    return Question(text, make_truth("open"), "own")


class CutAnswer(str):
    """The beginning of an answer that was cut at the maximum length. It is shown, and scored as no answer."""
