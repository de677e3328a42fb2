"""Structure sets (RTSTRUCT, PS3.3 A.19): contours of regions in the slices of a volume, and the voxels within them.

Axes: D slices, H rows, W columns, P points of a contour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.sample import Affine, Decoded
from medvlm.io.dicom.dataset import Gate, items, number, numbers, read_header, read_whole, silence_pydicom, text, whole

if TYPE_CHECKING:
    from pydicom import Dataset

STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OFF_PLANE = 0.1
"""How far a contour may be from the plane of a slice, as a share of the distance of slices."""


@dataclass(frozen=True)
class StructureSet:
    """series: of the images that it refers to. frames: the frames of reference of its regions. names: the numbers of
    its regions by their names."""

    path: Path
    series: frozenset[str]
    frames: frozenset[str]
    names: tuple[tuple[str, int], ...]

    def find(self, wanted: Sequence[str]) -> tuple[int, ...]:
        """The numbers of the regions with one of these names, whatever their case."""
        plain = {name.strip().casefold() for name in wanted}
        return tuple(number for name, number in self.names if name.strip().casefold() in plain)


def read_structures(path: Path) -> StructureSet | None:
    """What a file says of its regions, without their contours; None for another kind of DICOM object."""
    keywords = ("SOPClassUID", "ReferencedFrameOfReferenceSequence", "StructureSetROISequence")
    with silence_pydicom():
        dataset = read_header(path, keywords)
        if text(dataset, "SOPClassUID") != STRUCTURES:
            return None
        regions = items(dataset, "StructureSetROISequence")
        series = {
            text(each, "SeriesInstanceUID")
            for frame in items(dataset, "ReferencedFrameOfReferenceSequence")
            for study in items(frame, "RTReferencedStudySequence")
            for each in items(study, "RTReferencedSeriesSequence")
        }
        frames = {text(region, "ReferencedFrameOfReferenceUID") for region in regions}
        names = tuple((text(region, "ROIName"), whole(region, "ROINumber")) for region in regions)
        return StructureSet(path, frozenset(series - {""}), frozenset(frames - {""}), names)


def load_structures(
    path: Path,
    regions: Mapping[str, tuple[int, ...]],
    affine: Affine,
    size: tuple[int, int, int],
    gate: Gate | None = None,
) -> Decoded:
    """Labels uint8 [D, H, W], 1 for the first of `regions`; a voxel of several is of the last one.

    regions: class -> numbers of its regions. affine: of the volume, as in Medium, whose size is `size`. Raises
    DataError for a contour that is not closed, or not in the plane of a slice.
    """
    labels = np.zeros(size, np.uint8)
    to_voxels = _invert(affine)
    with silence_pydicom():
        dataset = read_whole(path, gate)
        of_number = {whole(each, "ReferencedROINumber"): each for each in items(dataset, "ROIContourSequence")}
        for label, (name, own) in enumerate(regions.items(), 1):
            for found in (of_number[each] for each in own if each in of_number):
                labels[_fill(found, name, to_voxels, size)] = label
    return Decoded(labels, unit="raw", affine=affine)


def fill_polygon(points_P2: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether the centre of each pixel is inside a closed polygon, bool [H, W], by the even-odd rule. points_P2: (row,
    column) in pixels; the centre of the first pixel is (0, 0). A centre on the left or upper edge counts as inside."""
    height, width = size
    rows, columns = points_P2.T
    next_rows, next_columns = np.roll(rows, -1), np.roll(columns, -1)
    at_H1 = np.arange(height)[:, None]
    crosses_HP = (rows <= at_H1) != (next_rows <= at_H1)
    row, edge = np.nonzero(crosses_HP)
    share = (row - rows[edge]) / (next_rows - rows)[edge]
    crossing = columns[edge] + share * (next_columns - columns)[edge]
    first = np.clip(np.ceil(crossing), 0, width).astype(np.intp)
    toggles = np.zeros((height, width + 1), np.int64)
    np.add.at(toggles, (row, first), 1)
    return (np.cumsum(toggles, 1)[:, :width] % 2).astype(bool)


def _fill(region: Dataset, name: str, to_voxels: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """The voxels of a region, bool [D, H, W]. Where contours of one slice overlap, the overlap is outside: so holes are
    drawn."""
    inside = np.zeros(size, bool)
    for contour in items(region, "ContourSequence"):
        kind = text(contour, "ContourGeometricType").upper()
        if kind not in CLOSED:
            raise DataError(f"{name}: a contour that is no closed one; leave the region out")
        data = numbers(contour, "ContourData") or ()
        count = whole(contour, "NumberOfContourPoints") if number(contour, "NumberOfContourPoints") else len(data) // 3
        if len(data) % 3 or count != len(data) // 3:
            raise DataError(f"{name}: a contour has {len(data)} coordinates, and {count} points")
        points_P3 = np.array(data).reshape(-1, 3) @ to_voxels[:, :3].T + to_voxels[:, 3]
        plane = int(np.rint(points_P3[:, 0].mean())) if len(points_P3) else 0
        if len(points_P3) and np.abs(points_P3[:, 0] - plane).max() > OFF_PLANE:
            raise DataError(f"{name}: a contour is not in the plane of a slice; it was drawn on another volume")
        if not 0 <= plane < size[0]:
            raise DataError(f"{name}: a contour is beyond the slices of the volume; it was drawn on another volume")
        if len(points_P3) > 2:
            inside[plane] ^= fill_polygon(points_P3[:, 1:], size[1:])
    return inside


def _invert(affine: Affine) -> np.ndarray:
    """3 x 4, from DICOM's coordinates (LPS, mm) to (d, h, w)."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ np.array(affine)
    inverse = np.linalg.inv(lps[:, :3])
    return np.hstack([inverse, -inverse @ lps[:, 3:]])
