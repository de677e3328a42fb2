"""Which of 14 findings an English report of a chest radiograph says are present, absent or uncertain, and where.

Rules for text, no model: they read what is said and know nothing about the image. docs/benchmarks.md has how often they
agree with labels made by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from medvlm.tasks._sections import drop_history
from medvlm.tasks.chest.mentions import Mention, Status, find_mentions
from medvlm.tasks.chest.sentences import split_sentences
from medvlm.tasks.chest.sides import Side, find_sides, join_sides
from medvlm.tasks.chest.words import DEVICES, FINDINGS, NO_FINDING

CLASSES = (*FINDINGS, NO_FINDING)
_ORDER: tuple[Status, ...] = ("present", "uncertain", "absent")
"""What a text says of a finding is the first of what its mentions say: one who sees it once has seen it."""


@dataclass(frozen=True)
class Finding:
    """side: of the mentions that have this status; "" if no word says it."""

    status: Status
    side: Side = ""


@lru_cache(maxsize=1 << 14)  # every measure reads the same texts, and reading one takes some milliseconds
def read_findings(text: str) -> dict[str, Finding]:
    """Class -> what the report says of it; no entry for what it does not mention. Its history is not read.

    `no_finding` is present if the report says so, or denies something, and nothing else but devices is present or
    uncertain in it.
    """
    found = read_mentions(text)
    others = [finding for name, finding in found.items() if name not in (DEVICES, NO_FINDING)]
    is_normal = bool(found.pop(NO_FINDING, None)) or any(each.status == "absent" for each in others)
    if is_normal and all(each.status == "absent" for each in others):
        found[NO_FINDING] = Finding("present")
    return found


def read_mentions(text: str) -> dict[str, Finding]:
    """Like read_findings, where `no_finding` is present only if the text calls the image normal."""
    found: dict[str, list[tuple[Mention, Side]]] = {}
    for plain in split_sentences(drop_history(text)):
        mentions = find_mentions(plain)
        for mention, side in zip(mentions, find_sides(plain, mentions), strict=True):
            found.setdefault(mention.name, []).append((mention, side))
    return {name: _sum_up(found[name]) for name in CLASSES if name in found}


def _sum_up(mentions: Iterable[tuple[Mention, Side]]) -> Finding:
    said = list(mentions)
    status = next(each for each in _ORDER if any(mention.status == each for mention, _ in said))
    return Finding(status, join_sides(side for mention, side in said if mention.status == status))
