"""The section `context` of a recipe: what a knowledge provider knows about a question is given with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import field_validator

from medvlm.core.config import Config, Slot

PLACE = "{}"


class ContextConfig(Config):
    """The same in supervised data, rollouts, evaluation and chat. It stands before the text of a question, behind the
    images, and only of the first turn of a dialogue. A question about which nothing is known stays as it is."""

    provider: Annotated[Any, Slot("knowledge", or_default=True)]
    """What is asked: a kind of medvlm/knowledge with its settings. It is asked with the text and the images of the
    question."""
    says: str = "Background: {}\n"
    """How it is said, with {} for what is known, a line each."""

    @field_validator("says")
    @classmethod
    def _has_a_place(cls, says: str) -> str:
        if says.count(PLACE) != 1:
            raise ValueError(f"{says!r}: expected {PLACE} once, as in Background: {PLACE}")
        return says

    def write(self, known: Sequence[str]) -> str:
        return self.says.replace(PLACE, "\n".join(known)) if known else ""
