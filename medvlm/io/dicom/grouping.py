"""Which slices of a series belong to one volume."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.dicom.header import Frame
from medvlm.io.dicom.plane import SAME_DIRECTION, Slice, depths_mm, place_numbers

KIND = (
    "ImageType",
    "EchoNumbers",
    "EchoTime",
    "EffectiveEchoTime",
    "InversionTime",
    "DiffusionBValue",
    "ComplexImageComponent",
    "ConvolutionKernel",
    "StackID",
)
"""Of what may tell images at one place apart, what makes another kind of image of them: never mixed in a volume."""
MAX_PLANES = 200
"""Of one kind of image; a radial scan has some dozens, and each slice is compared with all of them."""


def group_by_plane(slices: list[Slice]) -> list[list[Slice]]:
    """Groups of one KIND, series, matrix, spacing, orientation and frame of reference. Raises DataError for too
    many."""
    kinds: dict[tuple[object, ...], list[list[Slice]]] = {}
    for each in slices:
        header, frame = each
        varied = dict(frame.varying)
        exact = (
            header.series,
            header.size,
            header.frame_of_reference,
            header.modality,
            *(varied.get(name, "") for name in KIND),
        )
        planes = kinds.setdefault(exact, [])
        group = next((plane for plane in planes if _is_same_plane(plane[0][1], frame)), None)
        if group is not None:
            group.append(each)
        elif len(planes) == MAX_PLANES:
            raise DataError(f"more than {MAX_PLANES} orientations in one series")
        else:
            planes.append([each])
    return [plane for planes in kinds.values() for plane in planes]


def _is_same_plane(a: Frame, b: Frame) -> bool:
    pairs = ((a.spacing, b.spacing), (a.orientation, b.orientation))
    return all(
        x == y
        or (x is not None and y is not None and max(abs(i - j) for i, j in zip(x, y, strict=True)) <= SAME_DIRECTION)
        for x, y in pairs
    )


def split_volumes(group: list[Slice]) -> list[list[Slice]]:
    """The volumes of slices that are parallel: those at the same place are told apart by what was varied, or by the
    order in which they were numbered; acquisitions that run through each other are separate."""
    if any(None in (frame.position, frame.orientation, frame.spacing) for _, frame in group):
        raise DataError(
            "slices without ImagePositionPatient, ImageOrientationPatient or PixelSpacing: where they lie is unknown"
        )
    most = max(Counter(place_numbers(group)).values())
    if most > 1:
        return _split_by_attributes(group, most) or _split_by_number(group, most) or [group]
    return group_by(group, ("AcquisitionNumber",)) if _is_interleaved(group) else [group]


def _split_by_attributes(group: list[Slice], most: int) -> list[list[Slice]] | None:
    """As many parts as there are images at one place, none of which has two of them; by as few attributes as will
    do."""
    values = [dict(frame.varying) for _, frame in group]
    names = [
        n
        for n in dict.fromkeys(name for each in values for name in each)
        if len({each.get(n, "") for each in values}) > 1
    ]
    for count in (1, 2, 3):
        for chosen in combinations(names, count):
            parts = group_by(group, chosen)
            if len(parts) == most and all(max(Counter(place_numbers(part)).values()) == 1 for part in parts):
                return parts
    return None


def _split_by_number(group: list[Slice], most: int) -> list[list[Slice]] | None:
    """A series over time of which only the instance numbers tell: every `1 / most` of them covers every place once."""
    ordered = sorted(group, key=lambda s: (s[0].order, s[1].number))
    numbers = [(header.order, frame.number) for header, frame in ordered]
    count, rest = divmod(len(ordered), most)
    if rest or len(set(numbers)) < len(numbers):
        return None
    parts = [ordered[i : i + count] for i in range(0, len(ordered), count)]
    return parts if all(max(Counter(place_numbers(part)).values()) == 1 for part in parts) else None


def group_by(group: list[Slice], names: tuple[str, ...]) -> list[list[Slice]]:
    parts: dict[tuple[str, ...], list[Slice]] = {}
    for each in group:
        values = dict(each[1].varying)
        parts.setdefault(tuple(values.get(name, "") for name in names), []).append(each)
    return list(parts.values())


def _is_interleaved(group: list[Slice]) -> bool:
    """Whether slices of one acquisition lie between those of another; helical scans that go on in a new one do not."""
    numbers = [dict(group[i][1].varying).get("AcquisitionNumber", "") for i in np.argsort(depths_mm(group))]
    return sum(a != b for a, b in pairwise(numbers)) >= len(set(numbers))
