"""What is done to every array of a medium that is augmented: its pixels and its masks.

Axes: D slices, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from medvlm.core.geometry import Canvas
from medvlm.data.warp import Tilt, Warp, apply_tilt, apply_warp

if TYPE_CHECKING:
    import numpy as np

Move = Callable[["np.ndarray", bool], "np.ndarray"]
"""Takes and returns an array [H, W, ...]; the second argument is whether it holds labels."""


def apply_moves(array: np.ndarray, moves: Sequence[Move], axes: int, nearest: bool) -> np.ndarray:
    """axes: of the medium, 2 or 3. nearest: of masks, whose axes are the last ones; of pixels, colours are behind."""
    import numpy as np

    before = array.ndim - 2 if nearest else axes - 2
    # Slices, and masks that overlap, are moved like colours, behind height and width.
    turned = np.moveaxis(array, range(before), range(-before, 0)) if before else array
    for move in moves:
        turned = move(turned, nearest)
    return np.ascontiguousarray(np.moveaxis(turned, range(-before, 0), range(before)) if before else turned)


def find_crop(shape: tuple[int, ...], share: float, places: Sequence[float]) -> Canvas:
    """A crop with `share` of the area or volume and its proportions, at a place given by numbers in [0, 1)."""
    size = tuple(max(1, round(pixels * share ** (1 / len(shape)))) for pixels in shape)
    first = (int(place * (whole - kept + 1)) for place, whole, kept in zip(places, shape, size, strict=True))
    return Canvas(size, (1.0,) * len(shape), tuple(float(-at) for at in first))


def take_inside(cut: Canvas, array: np.ndarray, nearest: bool) -> np.ndarray:
    """The part of an array [H, W, ...] or [H, W, ..., D] that a crop keeps."""
    (height, width), (y, x) = cut.size[-2:], (int(-at) for at in cut.offset[-2:])
    kept = array[y : y + height, x : x + width]
    if len(cut.size) == 2:
        return kept
    z = int(-cut.offset[0])
    return kept[..., z : z + cut.size[0]]


def bend(warp: Warp, array: np.ndarray, nearest: bool) -> np.ndarray:
    """[H, W, ...], or [H, W, ..., D] of a volume that is tilted."""
    import numpy as np

    if not isinstance(warp, Tilt):
        return apply_warp(array, warp, nearest)
    return np.moveaxis(apply_tilt(np.moveaxis(array, -1, 0), warp, nearest), 0, -1)


def shift_edges(array: np.ndarray, dy: int, dx: int) -> np.ndarray:
    import numpy as np

    height, width = array.shape[:2]
    before, after = (max(dy, 0), max(dx, 0)), (max(-dy, 0), max(-dx, 0))
    padded = np.pad(array, [*zip(before, after, strict=True), *[(0, 0)] * (array.ndim - 2)], mode="edge")
    return padded[after[0] : after[0] + height, after[1] : after[1] + width]


def find_plane(canvas: Canvas) -> tuple[int, int]:
    return canvas.size[-2], canvas.size[-1]
