"""The options of a question: its choices, or what their letters stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvlm.core.sample import Truth

YES_NO = {"yes", "no"}


def has_options(truth: Truth) -> bool:
    """Whether the question names its options. Yes and no are none."""
    choices: Sequence[str] = getattr(truth, "choices", ())
    return len(choices) > 1 and {choice.lower() for choice in choices} != YES_NO


def list_options(truth: Any) -> tuple[Sequence[str], int]:
    """The texts of the options, and the index of the right one."""
    return truth.options or truth.choices, truth.choices.index(truth.answer)
