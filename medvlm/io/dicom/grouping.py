"""Decides which slices of a series belong to the same volume."""

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
"""Attributes that make a different kind of image; slices that differ in one are never in the same volume."""
MAX_PLANES = 200
"""Limit for the orientations of one kind of image. A radial scan has some dozens; each slice is compared with all."""


def group_by_plane(slices: list[Slice]) -> list[list[Slice]]:
    """Groups of slices with the same KIND, series, matrix, spacing, orientation, modality, units and frame of
    reference.
    Raises DataError if there are more than MAX_PLANES orientations."""
    kinds: dict[tuple[object, ...], list[list[Slice]]] = {}
    for each in slices:
        header, frame = each
        varied = dict(frame.varying)
        exact = (
            header.series,
            header.size,
            header.frame_of_reference,
            header.modality,
            header.units,
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
    """Splits parallel slices into volumes.

    Slices at the same position are separated by attributes that differ, or else by their numbers. Acquisitions whose
    slices are interleaved become separate volumes."""
    if any(None in (frame.position, frame.orientation, frame.spacing) for _, frame in group):
        raise DataError(
            "slices without ImagePositionPatient, ImageOrientationPatient or PixelSpacing: their position is unknown"
        )
    most = max(Counter(place_numbers(group)).values())
    if most > 1:
        return _split_by_attributes(group, most) or _split_by_number(group, most) or [group]
    return group_by(group, ("AcquisitionNumber",)) if _is_interleaved(group) else [group]


def _split_by_attributes(group: list[Slice], most: int) -> list[list[Slice]] | None:
    """Splits slices that share a position into separate volumes, using as few header attributes as possible (up to
    three). most: slices at one position, which is also the number of volumes. None if no attributes separate them."""
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
    """Splits a time series by instance number into `most` volumes of consecutive numbers. None unless each of them has
    every position once."""
    ordered = sorted(group, key=lambda s: (s[0].order, s[1].number))
    numbers = [(header.order, frame.number) for header, frame in ordered]
    count, rest = divmod(len(ordered), most)
    if rest or len(set(numbers)) < len(numbers):
        return None
    parts = [ordered[i : i + count] for i in range(0, len(ordered), count)]
    return parts if all(max(Counter(place_numbers(part)).values()) == 1 for part in parts) else None


def group_by(group: list[Slice], names: tuple[str, ...]) -> list[list[Slice]]:
    """Groups of slices with equal values of these attributes."""
    parts: dict[tuple[str, ...], list[Slice]] = {}
    for each in group:
        values = dict(each[1].varying)
        parts.setdefault(tuple(values.get(name, "") for name in names), []).append(each)
    return list(parts.values())


def _is_interleaved(group: list[Slice]) -> bool:
    """Whether slices of one acquisition lie between those of another. A helical scan that continues in a new
    acquisition is not interleaved."""
    numbers = [dict(group[i][1].varying).get("AcquisitionNumber", "") for i in np.argsort(depths_mm(group))]
    return sum(a != b for a, b in pairwise(numbers)) >= len(set(numbers))
