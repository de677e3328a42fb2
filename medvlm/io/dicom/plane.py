"""The plane of a slice, and its position along the normal. Only ImagePositionPatient is used, never an instance number
or a file name (PS3.3 C.7.6.2.1.1). Coordinates are LPS, in mm, as in DICOM."""

from __future__ import annotations

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.dicom.header import Frame, Header

Slice = tuple[Header, Frame]

SAME_DIRECTION = 1e-4
"""Largest difference of a direction cosine, or of a pixel spacing in mm, within a volume."""
SAME_PLACE_MM = 1e-3


def directions(orientation: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along the rows (to the next column), along the columns, and along the normal."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    if np.abs(np.array([row @ row - 1, column @ column - 1, row @ column])).max() > 2e-3:
        raise DataError("its ImageOrientationPatient is not two orthogonal unit vectors")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row  # made exactly orthogonal: the header's values are rounded
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def depths_mm(group: list[Slice]) -> np.ndarray:
    """Position of each slice in mm along the normal of the first slice's plane."""
    assert group[0][1].orientation is not None
    found: np.ndarray = np.array([frame.position for _, frame in group], float) @ directions(group[0][1].orientation)[2]
    return found


def place_numbers(group: list[Slice]) -> list[int]:
    """For each slice the number of its position along the normal, from 0. Slices at the same position share a
    number."""
    found = depths_mm(group)
    order = np.argsort(found, kind="stable")
    number = np.empty(len(group), int)
    number[order] = np.cumsum(np.diff(found[order], prepend=found[order[0]]) > SAME_PLACE_MM)
    return number.tolist()
