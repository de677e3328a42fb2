"""What the samples of a data card can have, as far as the card says. Recipes are checked against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medvlm.core.card import Card
from medvlm.core.config import component

ALL_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Offer:
    """The questions of a data card for decoders under one template. classes: those that occur in its truths."""

    task: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """What a reader can make of an archive with these settings. It never makes anything else; whether the archive has
    all of it is known only once it is packed. None: only the archive knows.

    tasks: of its questions. media: kinds, as the card's `media` calls them. has_reports: False if no sample has one.
    answered: template -> its questions for decoders. splits: those that the archive names, for a card whose
    `splits.by` is `column`. has_steps: False if no question has steps.
    """

    tasks: frozenset[str] | None = None
    media: frozenset[str] | None = None
    has_reports: bool | None = None
    answered: Mapping[str, Offer] | None = None
    splits: frozenset[str] | None = None
    has_steps: bool | None = None


def name_asked(**asked: Any) -> frozenset[str]:
    """The tasks of which there are questions. asked: task -> its settings or whether there are any."""
    return frozenset(task for task, questions in asked.items() if questions)


def find_content(card: Card) -> Content:
    """From `list_content(config)` of the module of its reader. A reader without this function may make anything."""
    module = component("archive.readers", card.reader.kind)
    found: Content = module.list_content(card.reader) if hasattr(module, "list_content") else Content()
    return found


def list_media(card: Card) -> tuple[str, ...]:
    """The kinds of media that its reader makes, in the order of the card."""
    known = find_content(card).media
    return tuple(kind for kind in card.media if known is None or kind in known)


def list_answered(card: Any) -> Mapping[str, Offer] | None:
    """Template -> the questions of a card for decoders; None if only the archive knows them."""
    return find_content(card).answered


def list_splits(card: Card) -> tuple[str, ...]:
    """The splits that have samples. If a column of the archive decides, only the archive knows; then all are listed."""
    if card.splits.folds:
        return ("train", "test")
    if card.splits.by == "column":
        known = find_content(card).splits
        return ALL_SPLITS if known is None else tuple(split for split in ALL_SPLITS if split in known)
    return tuple(split for split, ratio in card.splits.ratios.items() if ratio > 0)
