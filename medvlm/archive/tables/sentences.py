"""The sentences of a text that are about one thing."""

from __future__ import annotations

import re

from medvlm.core.config import Config

_SIDES = {"left": "right", "right": "left"}
_PLACES = {
    *_SIDES,
    "upper",
    "lower",
    "mid",
    "middle",
    "bilateral",
    "zone",
    "region",
    "area",
    "lobe",
    "of",
    "the",
    "and",
}
"""Words of a region that other regions have too."""


class Sentences(Config):
    """The sentences of a text that are about something, such as the region of a question."""

    of: str
    """Column of the text."""
    otherwise: str = ""
    """What stands there if no sentence is about it."""
    about: str
    """Column that names it, e.g. `left lower lung zone`. Kept are the sentences with the most of its words, one of them
    more than a side or a place (left, upper, zone ...), and none that name only the other side."""


def choose_sentences(text: str, about: str) -> str:
    """See Sentences; "" if there are none."""
    wanted = frozenset(re.findall(r"\w+", about.casefold()))
    other = {_SIDES[side] for side in wanted & _SIDES.keys()} - wanted
    sentences = [sentence.strip() for sentence in re.split(r"(?<=[.!?])\s+|\n+", text) if sentence.strip()]
    shared = []
    for sentence in sentences:
        words = {word.removesuffix("s") for word in re.findall(r"\w+", sentence.casefold())}
        own = {word for word in wanted if word.removesuffix("s") in words}
        is_elsewhere = other & words and not wanted & _SIDES.keys() & words
        shared.append(0 if is_elsewhere or not own - _PLACES else len(own))
    most = max(shared, default=0)
    return " ".join(sentence for sentence, own in zip(sentences, shared, strict=True) if most and own == most)
