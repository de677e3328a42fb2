"""Turns, zooms and elastic changes of images and of the slices of volumes, and where boxes are afterwards.

Axes: H height, W width, C anything behind them (colours, slices, masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medvlm.core.geometry import KEPT_SHARE, Canvas
from medvlm.core.sample import Box

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Warp(Canvas):
    """A map that is no scaling of each axis by itself. source: [2, H, W], for each pixel of the result where its centre
    was in the image, (y, x) in pixels. zoom: how much larger areas have become on average, along each axis."""

    source: np.ndarray = field(default=None, compare=False)  # type: ignore[arg-type]
    zoom: float = 1.0

    def clip_box(self, box: Box) -> Box | None:
        """The bounds of the pixels that show the inside of the box; None if they are less than half of it. Bounds of a
        turned box are larger than the box."""
        import numpy as np

        (y, x), (x1, y1, x2, y2) = self.source, box
        rows, columns = np.nonzero((x >= x1) & (x < x2) & (y >= y1) & (y < y2))
        if len(rows) < KEPT_SHARE * (x2 - x1) * (y2 - y1) * self.zoom**2 or not len(rows):
            return None
        return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def make_warp(
    size: tuple[int, int],
    degrees: float,
    zoom: float,
    elastic: tuple[float, float] | None,
    draw_normal: Callable[..., np.ndarray],
) -> Warp:
    """Around the middle of the image. degrees: against the clock. zoom: above 1 shows things larger. elastic: (pixels
    that a point moves, distance of points in pixels): normal displacements of a grid of points, with cubic
    interpolation between them (Simard et al. 2003 smooth noise instead; the grid is MONAI's Rand2DElastic)."""
    import numpy as np

    height, width = size
    middle_y, middle_x = height / 2, width / 2
    y, x = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    down, right = y - middle_y, x - middle_x
    source = np.stack([cos * down + sin * right + middle_y, -sin * down + cos * right + middle_x])
    if elastic is not None:
        source = source + _displace(size, *elastic, draw_normal)
    axes = len(size)
    return Warp(size, (1.0,) * axes, (0.0,) * axes, False, source.astype(np.float32), zoom)


def _displace(
    size: tuple[int, int], pixels: float, distance: float, draw_normal: Callable[..., np.ndarray]
) -> np.ndarray:
    """[2, H, W], in pixels."""
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    points = tuple(max(2, round(side / distance) + 1) for side in size)
    moves = torch.from_numpy(draw_normal((1, 2, *points)).astype(np.float32) * np.float32(pixels))
    found: np.ndarray = interpolate(moves, size=size, mode="bicubic", align_corners=True)[0].numpy()
    return found


def apply_warp(array: np.ndarray, warp: Warp, nearest: bool) -> np.ndarray:
    """[H, W, ...], of the same type. Beyond the edges, edge pixels are repeated. nearest: for labels; else bilinear."""
    import numpy as np

    height, width = array.shape[:2]
    source_y, source_x = warp.source
    if nearest:
        rows = np.clip(np.floor(source_y), 0, height - 1).astype(np.intp)
        columns = np.clip(np.floor(source_x), 0, width - 1).astype(np.intp)
        found: np.ndarray = array[rows, columns]
        return found
    import torch
    from torch.nn.functional import grid_sample

    flat = array.reshape(height, width, -1).astype(np.float32)
    grid = np.stack([source_x * np.float32(2 / width) - 1, source_y * np.float32(2 / height) - 1], -1)
    pixels_1CHW = torch.from_numpy(np.ascontiguousarray(np.moveaxis(flat, -1, 0)))[None]
    moved = grid_sample(
        pixels_1CHW, torch.from_numpy(grid)[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    made = np.moveaxis(moved.numpy(), 0, -1).reshape(array.shape)
    if array.dtype.kind == "f":
        return made.astype(array.dtype)
    return np.rint(made).astype(array.dtype)  # between stored values, so within their range
