"""Stacks slices into volumes: sorts them, checks that they are evenly spaced, and computes the affine.

Internally, coordinates are LPS as in DICOM; the resulting affine is RAS.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.sample import Affine
from medvlm.io.dicom.grouping import group_by, group_by_plane, split_volumes
from medvlm.io.dicom.header import Accepted, Header
from medvlm.io.dicom.plane import SAME_PLACE_MM, Slice, depths_mm, directions, place_numbers

UNEVEN = 0.01
"""Steps may differ from the median step by this share of it, or by 0.01 mm, because headers are rounded."""
TILT = 2e-3
"""Largest sideways shift per mm along the normal (0.1 degrees). A tilted CT gantry gives several degrees."""
MAX_FILLED = 3
"""Largest gap between two slices, in steps, that is interpolated if the card accepts gaps."""
MIN_SLICES = 3
"""With fewer slices, a missing one cannot be detected."""


@dataclass(frozen=True)
class Stack:
    """A volume whose pixels are not read yet.

    slices: (file, frame within it), from the first to the last along the normal. copies: (index of a slice, file,
    frame) of further images at the same position, which must have the same pixels. offsets: positions of the slices in
    an evenly spaced volume of size[0] slices, in steps of it; None if the slices are evenly spaced and nothing is
    interpolated.
    """

    slices: tuple[tuple[Path, int], ...]
    copies: tuple[tuple[int, Path, int], ...]
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: Affine
    modality: str
    offsets: tuple[float, ...] | None = None


def build_stacks(headers: Iterable[Header], accept: frozenset[Accepted] = frozenset()) -> list[Stack | DataError]:
    """The volumes of one series, in the order of their first files. A refused volume is replaced by the error that says
    why.

    The caller must have removed images with concerns that are not accepted (Frame.concerns).
    """
    slices = [(header, frame) for header in headers for frame in header.frames]
    try:
        groups = group_by_plane(slices)
    except DataError as reason:
        return [reason]
    found: list[Stack | DataError] = []
    for group in groups:
        try:
            found += [each for part in split_volumes(group) for each in _stack_part(part, accept)]
        except DataError as reason:
            found.append(reason)
    return found


def _stack_part(part: list[Slice], accept: frozenset[Accepted]) -> list[Stack | DataError]:
    """One volume; or one for each acquisition, if only these are evenly spaced. Gaps are filled only if neither
    works."""
    for accepted in (accept - {"gap"}, accept):
        together = _try_stack(part, accepted)
        if isinstance(together, Stack):
            return [together]
        pieces = [_try_stack(each, accepted) for each in group_by(part, ("AcquisitionNumber",))]
        if all(isinstance(piece, Stack) for piece in pieces):
            return pieces
    return [together]


def _try_stack(part: list[Slice], accept: frozenset[Accepted]) -> Stack | DataError:
    try:
        return _build_stack(part, accept)
    except DataError as reason:
        return reason


def _build_stack(part: list[Slice], accept: frozenset[Accepted]) -> Stack:
    """A volume of parallel slices. Raises DataError if they do not form one: too few, uneven, tilted, or with an
    impossible plane."""
    header, frame = part[0]
    assert frame.orientation is not None and frame.spacing is not None
    row, column, normal = directions(frame.orientation)
    if min(frame.spacing) <= 0:
        raise DataError("its PixelSpacing is not positive, so sizes in mm are unknown")
    order = np.argsort(depths_mm(part), kind="stable")
    place = np.asarray(place_numbers(part))[order]
    is_first = np.diff(place, prepend=-1) > 0
    chosen = [part[i] for i in order[is_first]]
    copies = tuple(
        (int(at), part[i][0].path, part[i][1].number)
        for at, i, first in zip(place, order, is_first, strict=True)
        if not first
    )
    if len(chosen) < MIN_SLICES:
        raise DataError(f"{len(chosen)} slice{'s' * (len(chosen) > 1)}; a volume needs at least {MIN_SLICES}")
    positions = np.array([f.position for _, f in chosen], float)
    if np.abs(np.array([part[i][1].position for i in order], float) - positions[place]).max() > SAME_PLACE_MM:
        raise DataError(
            "several slices side by side in one plane, e.g. of two slabs, and nothing in their headers says which"
            " belong together"
        )
    steps = np.diff(positions @ normal)
    offsets = _find_offsets(steps) if "gap" in accept else None
    if offsets is None:
        _check_even(steps)
    count = len(chosen) if offsets is None else round(offsets[-1]) + 1
    _check_line(positions, np.array(offsets or range(count)) / (count - 1), normal, "tilt" in accept)
    step = (positions[-1] - positions[0]) / (count - 1)
    lps = np.stack([step, column * frame.spacing[0], row * frame.spacing[1], positions[0]], axis=1)
    return Stack(
        tuple((h.path, f.number) for h, f in chosen),
        copies,
        (count, *header.size),
        (float(np.linalg.norm(step)), frame.spacing[0], frame.spacing[1]),
        _to_ras(lps),
        header.modality,
        offsets,
    )


def _to_ras(lps: np.ndarray) -> Affine:
    """The RAS affine, 3 x 4, from (d, h, w, 1). The only place where LPS becomes RAS."""
    ras = np.diag([-1.0, -1.0, 1.0]) @ lps + 0.0  # no -0.0
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in ras)


def _check_even(steps: np.ndarray) -> None:
    median = float(np.median(steps))
    off = np.abs(steps - median) > max(UNEVEN * median, 0.01)
    if off.any():
        at = int(np.argmax(np.abs(steps - median)))
        raise DataError(
            f"its slices are not evenly spaced: {int(off.sum())} of {len(steps)} steps differ; between slices {at + 1}"
            f" and {at + 2} it is {steps[at] / median:.2f} of the usual step; find the missing slices, or accept: [gap]"
            " to interpolate between neighbours"
        )


def _find_offsets(steps: np.ndarray) -> tuple[float, ...] | None:
    """Positions of the slices in steps of the evenly spaced volume that replaces them, whose step is close to the
    median step; None if the slices are evenly spaced. Raises DataError for a gap beyond MAX_FILLED."""
    median = float(np.median(steps))
    if (np.abs(steps - median) <= max(UNEVEN * median, 0.01)).all():
        return None
    if steps.max() > (MAX_FILLED + 0.5) * median:
        raise DataError(
            f"a gap of {steps.max() / median:.1f} usual steps between its slices; at most {MAX_FILLED} are"
            " interpolated; find the missing slices"
        )
    depth = np.concatenate([[0.0], np.cumsum(steps)])
    count = max(round(depth[-1] / median), 1)
    return tuple(float(x) for x in depth * count / depth[-1])


def _check_line(positions: np.ndarray, share: np.ndarray, normal: np.ndarray, tilt: bool) -> None:
    """Raises DataError unless the slices lie on a straight line, each at its share of its length, and the line is
    orthogonal to them. tilt: accepts an oblique line, which the affine then describes as a shear."""
    whole = positions[-1] - positions[0]
    depth = float(whole @ normal)
    off = np.linalg.norm(positions - positions[0] - share[:, None] * whole, axis=1)
    if off.max() > max(0.02, 0.05 * depth / len(positions)):
        raise DataError(
            f"slice {int(off.argmax()) + 1} of {len(positions)} is not on the straight line through the others"
        )
    sideways = float(np.linalg.norm(whole - depth * normal)) / depth
    if sideways > TILT and not tilt:
        raise DataError(
            f"its slices are tilted by {np.degrees(np.arctan(sideways)):.1f} degrees against the direction in which"
            " they are stacked (gantry tilt); straighten it, or accept: [tilt] to keep the voxels with a sheared"
            " affine"
        )
