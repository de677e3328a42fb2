"""Slices to volumes: in which order they lie, whether they fill space evenly, and where their voxels are.

Inside, coordinates are LPS as in DICOM; the affine that comes out is RAS.
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
"""Steps may differ from the median step by this share of it, or by 0.01 mm: headers are rounded."""
TILT = 2e-3
"""Largest sideways shift per mm along the normal (0.1 degrees); a CT gantry tilts by several degrees."""
MAX_FILLED = 3
"""Steps between two slices that are filled in where that is accepted; beyond, too little is known of what lies
there."""
MIN_SLICES = 3
"""With fewer, nothing shows whether a slice is missing."""


@dataclass(frozen=True)
class Stack:
    """A volume before its pixels are read.

    slices: (file, frame within it), from the first to the last along the normal. copies: (index of a slice, file,
    frame) of a second image at the same place, which must hold the same pixels. offsets: where the slices lie, in steps
    of an even volume of size[0] slices; None where they are even, so that nothing is interpolated.
    """

    slices: tuple[tuple[Path, int], ...]
    copies: tuple[tuple[int, Path, int], ...]
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: Affine
    modality: str
    offsets: tuple[float, ...] | None = None


def build_stacks(headers: Iterable[Header], accept: frozenset[Accepted] = frozenset()) -> list[Stack | DataError]:
    """The volumes of one series, each as it is or with the reason why it is refused, in the order of their first files.

    Images that are not accepted (Frame.concerns) have to be taken out before.
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
    """The volume, or one for each acquisition where only these are even; filling gaps comes last."""
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
    """Raises DataError for slices that do not make a volume: too few, uneven, tilted, with an impossible plane."""
    header, frame = part[0]
    assert frame.orientation is not None and frame.spacing is not None
    row, column, normal = directions(frame.orientation)
    if min(frame.spacing) <= 0:
        raise DataError("its PixelSpacing is not positive: sizes in mm are unknown")
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
        raise DataError(f"{len(chosen)} slice{'s' * (len(chosen) > 1)}, fewer than the {MIN_SLICES} that make a volume")
    positions = np.array([f.position for _, f in chosen], float)
    if np.abs(np.array([part[i][1].position for i in order], float) - positions[place]).max() > SAME_PLACE_MM:
        raise DataError(
            "slices beside each other in one plane, such as those of two slabs, and nothing in their headers tells"
            " which belong together"
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
    """The one place where left and back become right and front. 3 x 4, from (d, h, w, 1)."""
    ras = np.diag([-1.0, -1.0, 1.0]) @ lps + 0.0  # no -0.0
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in ras)


def _check_even(steps: np.ndarray) -> None:
    median = float(np.median(steps))
    off = np.abs(steps - median) > max(UNEVEN * median, 0.01)
    if off.any():
        at = int(np.argmax(np.abs(steps - median)))
        raise DataError(
            f"its slices are not evenly spaced: {int(off.sum())} of {len(steps)} steps differ, between slices {at + 1}"
            f" and {at + 2} it is {steps[at] / median:.2f} of the usual one; find what is missing, or accept: [gap] to"
            " fill in between neighbours"
        )


def _find_offsets(steps: np.ndarray) -> tuple[float, ...] | None:
    """Of the slices, in steps of the even volume that replaces them (as fine as the median step); None where they are
    even."""
    median = float(np.median(steps))
    if (np.abs(steps - median) <= max(UNEVEN * median, 0.01)).all():
        return None
    if steps.max() > (MAX_FILLED + 0.5) * median:
        raise DataError(
            f"a gap of {steps.max() / median:.1f} of the usual steps between its slices; at most {MAX_FILLED} are"
            " filled in: find what is missing"
        )
    depth = np.concatenate([[0.0], np.cumsum(steps)])
    count = max(round(depth[-1] / median), 1)
    return tuple(float(x) for x in depth * count / depth[-1])


def _check_line(positions: np.ndarray, share: np.ndarray, normal: np.ndarray, tilt: bool) -> None:
    """Slices lie on a line, each at its share of it, and unless `tilt` is accepted (the affine then holds it) at right
    angles to it."""
    whole = positions[-1] - positions[0]
    depth = float(whole @ normal)
    off = np.linalg.norm(positions - positions[0] - share[:, None] * whole, axis=1)
    if off.max() > max(0.02, 0.05 * depth / len(positions)):
        raise DataError(
            f"slice {int(off.argmax()) + 1} of {len(positions)} does not lie on the straight line through the others"
        )
    sideways = float(np.linalg.norm(whole - depth * normal)) / depth
    if sideways > TILT and not tilt:
        raise DataError(
            f"its slices are tilted by {np.degrees(np.arctan(sideways)):.1f} degrees against the direction in which"
            " they are stacked (gantry tilt); straighten it, or accept: [tilt] to keep the voxels as they are with a"
            " sheared affine"
        )
