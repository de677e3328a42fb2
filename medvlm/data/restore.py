"""A medium that is not cropped, and from maps of it back to its stored pixels, row by row along the first axis.

Axes: K maps, D the first axis of a medium, then the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.nn.functional import interpolate

from medvlm.core.sample import Medium
from medvlm.data.pixels import decode
from medvlm.data.steps import Steps, deepen, plan_steps
from medvlm.data.transforms import MediaTransform


def see_whole(transform: MediaTransform, stored: Any, medium: Medium) -> tuple[torch.Tensor, Steps]:
    """What the transform makes of a medium without cropping it: it may be larger than the encoder's input. Without
    tiles. stored: an array, or its bytes. A picture for an encoder of volumes is a volume, see deepen()."""
    array = decode(stored, medium.member) if isinstance(stored, bytes) else stored
    deep = deepen(medium, transform.preprocess)
    array, medium = array if deep is medium else array[None], deep
    steps = plan_steps(medium.size, medium.spacing_mm, transform.preprocess, medium.member, whole=True)
    return transform.apply(array, steps, medium.member)[0], steps


MODES = {1: "linear", 2: "bilinear"}


def restore_rows(slabs: Iterable[torch.Tensor], steps: Steps, size: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """Yields [K, *rest] for each index of the first stored axis: the maps, interpolated linearly (torch's bilinear or
    trilinear, align_corners=False), without what was padded. Nothing may be cropped by `steps`.

    slabs: [K, n, *rest] that join along the first axis of steps.size. size: of the stored medium. At most two rows of
    the stored size are held."""
    rows = (row for slab in slabs for row in slab.unbind(1))
    count, before = steps.resized[0], steps.before[0]
    found = enumerate(_place(row, steps, size) for row in islice(rows, before, before + count))
    number, above = next(found)
    below = above
    for target in range(size[0]):
        at = min(max((target + 0.5) * count / size[0] - 0.5, 0.0), count - 1.0)
        while number < min(int(at) + 1, count - 1):
            above = below
            number, below = next(found)
        share = at - int(at)
        if int(at) == number:  # the last row
            yield below
        else:
            yield above if share == 0 else above + share * (below - above)


def _place(row: torch.Tensor, steps: Steps, size: tuple[int, ...]) -> torch.Tensor:
    """One row [K, *rest] without its padding, at the stored size."""
    for axis, (start, side) in enumerate(zip(steps.before[1:], steps.resized[1:], strict=True), 1):
        row = row.narrow(axis, start, side)
    if tuple(row.shape[1:]) == size[1:]:
        return row
    return interpolate(row[None], size=size[1:], mode=MODES[len(size) - 1], align_corners=False)[0]
