"""Which slices of a series belong to one volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.dicom.plane import SAME_DIRECTION, Slice, along, places


def one_plane(slices: list[Slice]) -> Iterator[list[Slice]]:
    """Groups of one series, matrix, spacing, orientation and frame of reference."""
    groups: list[list[Slice]] = []
    for each in slices:
        group = next((g for g in groups if _alike(g[0], each)), None)
        if group is None:
            groups.append([each])
        else:
            group.append(each)
    yield from groups


def _alike(a: Slice, b: Slice) -> bool:
    (one, first), (other, second) = a, b
    if (one.series, one.size, one.frame_of_reference, one.modality) != (other.series, other.size, other.frame_of_reference, other.modality):
        return False
    pairs = ((first.spacing, second.spacing), (first.orientation, second.orientation))
    return all(x == y or (x is not None and y is not None and max(abs(i - j) for i, j in zip(x, y, strict=True)) <= SAME_DIRECTION) for x, y in pairs)


def volumes(group: list[Slice]) -> list[list[Slice]]:
    """The volumes of slices that are parallel: those at the same place are told apart by what was varied, or by the
    order in which they were numbered; acquisitions that run through each other are separate."""
    if any(None in (frame.position, frame.orientation, frame.spacing) for _, frame in group):
        raise DataError("slices without ImagePositionPatient, ImageOrientationPatient or PixelSpacing: where they lie is unknown")
    most = max(Counter(places(group)).values())
    if most > 1:
        return _told_apart(group, most) or _numbered_apart(group, most) or [group]
    return by(group, ("AcquisitionNumber",)) if _interleaved(group) else [group]


def _told_apart(group: list[Slice], most: int) -> list[list[Slice]] | None:
    """As many parts as there are images at one place, none of which has two of them; by as few attributes as will do."""
    values = [dict(frame.told_apart) for _, frame in group]
    names = [n for n in dict.fromkeys(name for each in values for name in each) if len({each.get(n, "") for each in values}) > 1]
    for count in (1, 2, 3):
        for chosen in combinations(names, count):
            parts = by(group, chosen)
            if len(parts) == most and all(max(Counter(places(part)).values()) == 1 for part in parts):
                return parts
    return None


def _numbered_apart(group: list[Slice], most: int) -> list[list[Slice]] | None:
    """A series over time of which only the instance numbers tell: every `1 / most` of them covers every place once."""
    ordered = sorted(group, key=lambda s: (s[0].order, s[1].number))
    numbers = [(header.order, frame.number) for header, frame in ordered]
    count, rest = divmod(len(ordered), most)
    if rest or len(set(numbers)) < len(numbers):
        return None
    parts = [ordered[i : i + count] for i in range(0, len(ordered), count)]
    return parts if all(max(Counter(places(part)).values()) == 1 for part in parts) else None


def by(group: list[Slice], names: tuple[str, ...]) -> list[list[Slice]]:
    parts: dict[tuple[str, ...], list[Slice]] = {}
    for each in group:
        values = dict(each[1].told_apart)
        parts.setdefault(tuple(values.get(name, "") for name in names), []).append(each)
    return list(parts.values())


def _interleaved(group: list[Slice]) -> bool:
    """Whether slices of one acquisition lie between those of another; helical scans that go on in a new one do not."""
    numbers = [dict(group[i][1].told_apart).get("AcquisitionNumber", "") for i in np.argsort(along(group))]
    return sum(a != b for a, b in pairwise(numbers)) >= len(set(numbers))
