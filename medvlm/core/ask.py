"""A question about a sample, as it is put to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from medvlm.core.sample import Question, Sample

Files = Mapping[str, bytes]
"""Member of a sample, e.g. `0.png` -> its bytes."""


@dataclass(frozen=True)
class Ask:
    """shows: `none` asks without the media. media_of: another sample, whose media are shown instead."""

    sample: Sample
    files: Files
    question: Question
    shows: Literal["media", "none"] = "media"
    media_of: tuple[Sample, Files] | None = None


class CutAnswer(str):
    """The beginning of an answer that was cut at the maximum length. It is shown, and scored as no answer."""
