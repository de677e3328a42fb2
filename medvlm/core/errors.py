"""Errors that the user can act on. Each says where, what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """The user's input is wrong; the command line prints the message without a traceback and exits with 2."""


class RecipeError(UserError):
    """A recipe or an override is wrong; the message starts with file:line:column and the dotted key."""


class DataError(UserError):
    """A card, an archive, a shard or a sample is wrong; the message names it."""


class NoScore(DataError):
    """Raised by a reward that asks another process and gets no score of an answer. The reward is then left out for all
    answers to the question, which could not be compared otherwise."""


class StorageError(UserError):
    """A disk or a server cannot be used now. The data may be fine, so no sample is replaced because of it."""


class ImageNotUsed(DataError):
    """The images of a stage do not affect the model; the message names stage and samples."""


class RolloutMismatch(DataError):
    """The model that learns from answers is not the one that drew them; the message names stage and samples."""


class ShapeError(UserError):
    """Two parts that were put together do not fit; the message names both."""


class CheckpointError(UserError):
    """A checkpoint is damaged, foreign, or of another recipe; the message names the folder and the file."""


def did_you_mean(found: str, accepted: Iterable[str]) -> str:
    """`, did you mean 'rank'?`, or "" if no accepted word is similar. Up to a third of the letters may be wrong."""
    near = [(_edits(found, word), -difflib.SequenceMatcher(None, found, word).ratio(), word) for word in accepted]
    edits, _, word = min(near, default=(len(found) + 1, 0.0, ""))
    return f", did you mean {word!r}?" if word and edits <= max(1, len(found) // 3) else ""


MOST_LISTED, LISTED = 12, 8


def list_some(words: Iterable[str], rest: str = "more") -> str:
    """The words of a list, for a message; of a long one only the first, and how many more there are."""
    words = list(words)
    if len(words) <= MOST_LISTED:
        return ", ".join(words)
    return f"{', '.join(words[:LISTED])} and {len(words) - LISTED} {rest}"


def shorten(value: Any) -> str:
    """A value as a message shows it."""
    words = {True: "true", False: "false", None: "nothing"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _edits(a: str, b: str) -> int:
    """The number of insertions, deletions, replacements and swaps of neighbours (optimal string alignment distance)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
