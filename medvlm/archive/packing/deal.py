"""Keyed hashes: they replace names, and assign each patient to one split. They need no table and never change."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from stat import S_IROTH
from typing import Literal, NamedTuple

from medvlm.core.card import Card, Splits
from medvlm.core.cell_values import identify
from medvlm.core.errors import DataError
from medvlm.core.secrets import read_secret

MIN_SALT = 16
"""Fewest characters of a salt."""
MIN_BITS = 44
"""Fewest bits of a salt by estimate_bits(). Of 4,000 random salts it refuses none of 32 or 64 hex digits, and 2 % of 16
hex digits."""


def hash_name(text: str, salt: str, use: Literal["key", "patient", "deal"]) -> str:
    """16 hex digits (64 bits: 10 M names collide with a chance of 3e-6). The same patient has the same hash in all
    data sets with the same salt, so shared patients can be found. Anyone who knows the salt can try all patient numbers
    of a hospital, so the salt protects patients only if it is secret. A patient's number has one hash in all its forms
    (12, 12.0, 0012), also between data sets; raises DataError for one that has lost digits, see identify()."""
    text = identify(text) if use == "patient" else text
    secret = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    return hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=8, key=secret, person=use.encode()
    ).hexdigest()


def read_salt(path: Path) -> str:
    """The salt in a file, stripped. Raises DataError, which never shows the salt, if the file cannot be read, if
    everybody may read it, or if the salt can be guessed."""
    make = "make one with `openssl rand -hex 32`, and keep it where only people who may know the patients can read it"
    is_salt = not path.exists() and not path.suffix and estimate_bits(str(path)) >= MIN_BITS and not path.is_absolute()
    shown = "what is given as the name of a file looks like the salt itself" if is_salt else str(path)
    salt = read_secret(path, "salt", shown, make, S_IROTH, DataError)  # a group may share a salt
    if len(salt) < MIN_SALT:
        raise DataError(
            f"{shown}: a salt of {len(salt)} characters can be guessed; expected at least {MIN_SALT}: {make}"
        )
    if estimate_bits(salt) < MIN_BITS:
        raise DataError(f"{shown}: a salt of words, repetitions or sequences can be guessed; {make}")
    return salt


def estimate_bits(text: str) -> float:
    """About how many bits have to be guessed. Characters that repeat or continue a sequence count nothing, letters of
    words 1.5 bits each, punctuation 2, other characters those of their alphabet."""
    text = text.strip()
    known, bits = set[str](), 0.0
    is_hex = re.fullmatch("[0-9a-f-]+|[0-9A-F-]+", text) is not None
    words = [] if is_hex else [match.span() for match in re.finditer(r"[A-Z][a-z]{3,}|[a-z]{4,}|[A-Z]{5,}", text)]
    for place, char in enumerate(text):
        is_next = place > 0 and abs(ord(char) - ord(text[place - 1])) < 2
        is_repeated = text[max(place - 2, 0) : place + 1] in known
        known.add(text[max(place - 2, 0) : place + 1])
        if is_next or is_repeated:
            continue
        if any(start <= place < end for start, end in words):
            bits += 1.5
        elif char.isdecimal() or is_hex:
            bits += 4 if is_hex else 3.3
        else:
            bits += 4.7 if char.isalpha() else 2
    return bits


def require_secret(card: Card) -> None:
    """Raises DataError for data of restricted access without a secret salt."""
    if card.access in ("registration", "credentialed") and not card.salt_id:
        raise DataError(
            f"{card.name}: its access is {card.access}, so its patients and files must be hashed with a salt that is"
            " not in the card: give --salt-file FILE (in a recipe: data.NAME.salt_file), with the output of"
            " `openssl rand -hex 32`; data sets with the same salt can be checked for shared patients"
        )


def split_of(group: str, splits: Splits) -> str:
    """The split of all samples of one group (a patient, an image). Does not depend on the rest of the archive.

    Split sizes are therefore random: of 70 patients, a split of 0.1 gets 7 with a standard deviation of 2.5.
    """
    position = int(hash_name(group, splits.salt, "deal"), 16) / 2**64
    if splits.folds:
        return f"fold{int(position * splits.folds)}"
    names = [name for name, ratio in splits.ratios.items() if ratio > 0]
    ends = accumulate(splits.ratios[name] for name in names)
    return next((name for name, end in zip(names, ends, strict=True) if position < end), names[-1])


class Share(NamedTuple):
    """What is kept of a sample that was written to a split. images: the hash of each medium's bytes. bytes: total of
    its media and text. left_out: reason -> how many of its parts were left out."""

    key: str
    split: str
    patient: str
    images: tuple[str, ...]
    questions: int
    bytes: int
    left_out: Mapping[str, int]


@dataclass
class Dealt:
    """What has been assigned to which split so far. images, patients: hash -> split. left_out: parts of samples, by
    reason."""

    samples: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    images: dict[str, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def check(self, share: Share) -> None:
        """Raises DataError for a sample whose key exists already, or whose patient or image is in another split."""
        if share.key in self.keys:
            raise DataError("there is a sample of the same key already")
        if self.patients.get(share.patient, share.split) != share.split:
            raise DataError("its patient is in another split already; split by patient")
        if any(self.images.get(each, share.split) != share.split for each in share.images):
            raise DataError("its image is in another split already")

    def take(self, share: Share) -> None:
        self.keys.add(share.key)
        self.images |= dict.fromkeys(share.images, share.split)
        if share.patient:
            self.patients[share.patient] = share.split
        self.samples[share.split] += 1
        self.questions[share.split] += share.questions
        self.left_out.update(share.left_out)
