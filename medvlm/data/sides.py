"""What the sides in the words of a sample become where its image is mirrored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medvlm.core.sample import Question, Sample, truth_from_json


def swap_sides(sample: Sample, sides: Sequence[tuple[str, str]]) -> Sample:
    """The sample of a mirrored patient. Truths keep the names of their members."""
    if not sides:
        return sample
    partner = {a.casefold(): b for pair in sides for a, b in (pair, pair[::-1])}
    words = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, partner))})(?!\w)", re.IGNORECASE)

    def swap(value: Any) -> Any:
        if isinstance(value, str):
            return words.sub(lambda found: _write_like(partner[found[0].casefold()], found[0]), value)
        if isinstance(value, list | tuple):
            return [swap(each) for each in value]
        return {swap(k): swap(v) for k, v in value.items()} if isinstance(value, dict) else value

    def swap_question(question: Question) -> Question:
        record = question.truth.to_json()
        kept = {"task", *(name for name, value in record.items() if value in question.truth.members)}
        truth = truth_from_json({name: value if name in kept else swap(value) for name, value in record.items()})
        steps, before = swap(question.steps), tuple(map(swap_question, question.before))
        return replace(
            question, text=swap(question.text), truth=truth, steps=steps, before=before, system=swap(question.system)
        )

    questions = tuple(map(swap_question, sample.questions))
    return replace(sample, questions=questions, report=swap(sample.report), concept=swap(sample.concept))


def _write_like(word: str, other: str) -> str:
    """The word in the case of another: Left, LEFT, left."""
    if len(other) > 1 and other.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if other[:1].isupper() else word.lower()
