"""Saved answers without what could identify a patient, for people who do not have the data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from medvlm.core.card import Card
from medvlm.core.protocols import Record
from medvlm.evaluate.saved import SavedSplit
from medvlm.io.phi.text import count_findings

DROPPED = ("thumb",)
"""Names of pictures."""
LONG_NUMBER = re.compile(r"\d{6,}")
NO_TEXT = 200
"""A word of so many characters is no text but encoded data, such as a mask."""


def explain_refusal(card: Card | None, saved: SavedSplit) -> str:
    """Why the questions and answers of a split must not be passed on; "" if they may."""
    if card is None:
        return "the recipe of the run has no card of this data set"
    if not card.licence.redistribute:
        return f"the licence of {card.name} ({card.licence.id}) does not allow passing on its data"
    if card.access == "credentialed":
        return f"access to {card.name} is credentialed"
    if card.phi.status == "unknown":
        return f"the card of {card.name} does not say whether it has data of patients (phi.status: unknown)"
    suspect = sum(map(_may_identify, {text for record in _list(saved) for text in _list_texts(record)}))
    return f"{suspect} of its texts may identify a person" if suspect else ""


def hide_keys(saved: SavedSplit, numbers: dict[str, str]) -> dict[str, list[Record]]:
    """The records by protocol, with a number in place of the key of each sample. numbers: key -> number; grows."""

    def hide(record: Record) -> Record:
        kept = {key: value for key, value in record.items() if key not in DROPPED}
        key = str(record.get("key", ""))
        return {**kept, "key": numbers.setdefault(key, f"sample-{len(numbers) + 1}") if key else ""}

    return {kind: [hide(record) for record in records] for kind, records in saved.records.items()}


def hash_records(saved: SavedSplit) -> str:
    """A hash of all records, with their keys."""
    return hashlib.sha256(json.dumps(saved.records, sort_keys=True).encode()).hexdigest()


def _list(saved: SavedSplit) -> Iterator[Record]:
    for records in saved.records.values():
        yield from records


def _list_texts(value: Any) -> Iterator[str]:
    """All texts of a record except the key of its sample, which is replaced."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from () if key in ("key", *DROPPED) else _list_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _list_texts(inner)
    elif isinstance(value, str):
        yield value


def _may_identify(text: str) -> bool:
    if not re.search(r"[^\W\d_]", text):  # coordinates and counts
        return bool(LONG_NUMBER.search(text))
    if len(text) > NO_TEXT and not re.search(r"\s", text):
        return False
    return bool(count_findings(text))
