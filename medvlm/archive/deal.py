"""Names without meaning and splits without leaks: both come from a keyed hash, so they need no table and never change."""

from __future__ import annotations

import hashlib
from itertools import accumulate
from typing import Literal

from medvlm.core.card import Splits


def keyed(text: str, salt: str, use: Literal["key", "patient", "deal"]) -> str:
    """16 hex digits (64 bits: 10 M names collide with a chance of 3e-6). The same patient has the same hash in every
    data set of one salt, which is how shared patients can be found; without the salt the hash can't be tried out."""
    secret = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=secret, person=use.encode()).hexdigest()


def split_of(group: str, splits: Splits) -> str:
    """The split of all samples of one group (a patient, an image), whatever else is in the archive.

    Sizes are therefore those of a random draw: of 70 patients, a split of 0.1 gets 7 give or take 2.5.
    """
    position = int(keyed(group, splits.salt, "deal"), 16) / 2**64
    if splits.folds:
        return f"fold{int(position * splits.folds)}"
    names = [name for name, ratio in splits.ratios.items() if ratio > 0]
    ends = accumulate(splits.ratios[name] for name in names)
    return next((name for name, end in zip(names, ends, strict=True) if position < end), names[-1])
