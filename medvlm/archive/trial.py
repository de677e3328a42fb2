"""Tries a card on an archive before anything is packed: what would be refused and why, all of it in one list, who the
patients are, and which images there are."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medvlm.archive.packing.stored import hash_image, prepare_sample
from medvlm.core.card import Card, Checked
from medvlm.core.config import component
from medvlm.core.contracts import BadSample, Deferred, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.io.phi.refusal import Refusal

MAX_READ = 1000
"""Samples whose files are read."""
SECONDS = 40.0
"""After that time no more files are read."""


@dataclass
class Trial:
    """samples: that the reader makes. tried: of these, whose files were read. refused: reason -> samples. words: of
    phi.checked, that would be needed -> samples. identifying: what may identify a person -> samples. left_out: by
    reason. patients: sample -> its patient. splits: that the archive says. images: hash of the first medium of each
    sample that was read."""

    samples: int = 0
    tried: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    words: Counter[Checked] = field(default_factory=Counter)
    identifying: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    patients: dict[str, str] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    images: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all samples were tried."""
        return self.tried == self.samples


def try_card(card: Card, root: Path) -> Trial:
    """Raises DataError for an archive that the card does not fit."""
    found, began = Trial(), time.monotonic()
    for item in component("archive.readers", card.reader.kind).read(card.reader, root):
        if isinstance(item, LeftOut):
            found.left_out[item.reason] += item.count
            continue
        found.samples += 1
        is_read = found.tried < MAX_READ and time.monotonic() - began < SECONDS
        if isinstance(item, BadSample):
            found.tried += 1
            found.refused[item.reason] += 1
        elif is_read or isinstance(item, RawSample):
            _take(found, item, card, is_read)
    return found


def _take(found: Trial, item: RawSample | Deferred, card: Card, is_read: bool) -> None:
    found.tried += is_read
    try:
        raw = item.make() if isinstance(item, Deferred) else item
        if raw.sample.patient:
            found.patients[raw.sample.key] = raw.sample.patient
        if raw.sample.split:
            found.splits[raw.sample.split] += 1
        if is_read:
            _read(found, raw, card)
    except DataError as reason:
        found.refused[str(reason)] += 1


def _read(found: Trial, raw: RawSample, card: Card) -> None:
    """Reads the files. What could identify a person is accepted one after the other, so that all of it is found."""
    refusals: list[Refusal] = []
    while True:
        try:
            sample, files = prepare_sample(raw, card)
            break
        except Refusal as refusal:
            refusals.append(refusal)
            phi = card.phi.model_copy(update={"checked": (*card.phi.checked, *refusal.words)})
            card = card.model_copy(update={"phi": phi})
    found.words.update({word for refusal in refusals for word in refusal.words})
    found.identifying.update(list(dict.fromkeys(kind for refusal in refusals for kind in refusal.found)))
    if sample.media:
        found.images.append(hash_image(files[sample.media[0].member]))
