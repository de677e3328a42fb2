"""Assigns the images of a table to splits as packing will do it, with a salt that suits even few patients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlm.archive.media_file import FileOptions, media_of
from medvlm.archive.packing.deal import hash_name, split_of
from medvlm.archive.packing.stored import convert_file, hash_image
from medvlm.commands.first_recipe import TableRow
from medvlm.core.card import Splits
from medvlm.core.cell_values import identify
from medvlm.core.errors import DataError

MAX_READ = 1000
"""Without patients, the content of an image decides about its split. So many images are read at most; of more, every
split gets about its share with any salt."""
ATTEMPTS, TOLERANCE = 64, 0.02
"""Salts that are tried until the share of every split is that close to what it should be."""


@dataclass(frozen=True)
class FirstSplits:
    """splits: for the card. patients: split -> their number, empty if they are unknown. images: split -> their number.
    is_exact: whether packing makes the same numbers, or about these. unreadable: images that packing will refuse."""

    splits: Splits
    patients: Mapping[str, int]
    images: Mapping[str, int]
    is_exact: bool = True
    unreadable: int = 0


def split_by_patient(name: str, rows: list[TableRow], column: str) -> FirstSplits:
    """Raises DataError for fewer than three patients, and for a patient that lost its number in a spreadsheet."""
    patient_of: dict[str, str] = {}
    for row in rows:
        try:
            patient_of[row.image] = identify(row.patient)
        except DataError as reason:
            raise DataError(f"{row.place}: column {column}: {reason}") from None
    return deal_patients(name, patient_of)


def deal_patients(name: str, patient_of: Mapping[str, str]) -> FirstSplits:
    """patient_of: image or sample -> its patient. Raises DataError for fewer than three patients."""
    patients = dict.fromkeys(patient_of.values())
    _require_groups(len(patients), "patients")

    def deal(splits: Splits) -> dict[str, str]:
        return {each: split_of(hash_name(each, splits.salt, "patient"), splits) for each in patients}

    splits, split_of_patient = _choose_salt(Splits(by="patient", salt=name), deal)
    images = Counter(split_of_patient[patient] for patient in patient_of.values())
    return FirstSplits(splits, Counter(split_of_patient.values()), images)


def split_by_image(name: str, folder: Path, rows: list[TableRow]) -> FirstSplits:
    """folder: of the table. Raises DataError for fewer than three images."""
    paths, splits = {row.image for row in rows}, Splits(by="image", salt=name)
    _require_groups(len(paths), "images")
    if len(paths) > MAX_READ:
        about: dict[str, int] = {split: round(ratio * len(paths)) for split, ratio in splits.ratios.items()}
        return FirstSplits(splits, {}, about, is_exact=False)
    hashes = [found for path in sorted(paths) if (found := _hash_file(folder / path))]
    return deal_images(name, hashes, len(paths) - len(hashes))


def deal_images(name: str, hashes: Sequence[str], unreadable: int = 0) -> FirstSplits:
    """hashes: of the images, see hash_image(). Raises DataError for fewer than three."""
    _require_groups(len(hashes), "images that can be read")

    def deal(splits: Splits) -> dict[str, str]:
        return {each: split_of(each, splits) for each in hashes}

    splits, split_of_hash = _choose_salt(Splits(by="image", salt=name), deal)
    images = Counter(split_of_hash[each] for each in hashes)
    return FirstSplits(splits, {}, images, unreadable=unreadable)


def _require_groups(count: int, what: str) -> None:
    if count < 3:
        raise DataError(
            f"{count} {what} cannot be split into train, val and test; expected at least 3, and several dozen for"
            " meaningful results"
        )


def _choose_salt(first: Splits, deal: Callable[[Splits], dict[str, str]]) -> tuple[Splits, dict[str, str]]:
    """The settings with the first of some salts that gives every split its share, or else the best of them. deal:
    group -> its split."""
    tried: list[tuple[float, Splits, dict[str, str]]] = []
    for attempt in range(ATTEMPTS):
        splits = first.model_copy(update={"salt": f"{first.salt}-{attempt}"}) if attempt else first
        dealt = deal(splits)
        counts = Counter(dealt.values())
        off = max(abs(counts[split] / max(1, len(dealt)) - ratio) for split, ratio in splits.ratios.items())
        tried.append((off if all(counts[split] for split in splits.ratios) else math.inf, splits, dealt))
        if tried[-1][0] < TOLERANCE:
            break
    _, splits, dealt = min(tried, key=lambda each: each[0])
    return splits, dealt


def _hash_file(path: Path) -> str:
    """The hash that packing makes of an image; "" for one that it will refuse."""
    try:
        _, data, _ = convert_file(media_of(path, FileOptions(), None)[0], "its image")
    except DataError:
        return ""
    return hash_image(data)
