"""Turns, zooms and elastic changes of images, of the slices of volumes, and of volumes out of the plane of their
slices; and where boxes are afterwards.

Axes: D slices, H height, W width, C anything behind them (colours, slices, masks).
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


@dataclass(frozen=True)
class Tilt(Warp):
    """The same for a volume, out of the plane of its slices. source: [3, D, H, W], (z, y, x) in voxels."""

    def clip_box(self, box: Box) -> Box | None:
        """A box is one of all slices: the bounds, over all slices, of the voxels that show its inside."""
        (z, y, x), (x1, y1, x2, y2), depth = self.source, box, self.size[0]
        is_inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2) & (z >= 0) & (z < depth)
        if is_inside.sum() < KEPT_SHARE * (x2 - x1) * (y2 - y1) * depth * self.zoom**3 or not is_inside.any():
            return None
        rows, columns = is_inside.any((0, 2)).nonzero()[0], is_inside.any((0, 1)).nonzero()[0]
        return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)

    def see_slice(self, stored: int) -> int | None:
        """No slice shows a stored one, so that questions about slices by number cannot follow."""
        return None


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


def make_tilt(
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    degrees: tuple[float, float, float],
    zoom: float,
    elastic: tuple[float, float] | None,
    draw_normal: Callable[..., np.ndarray],
) -> Tilt:
    """Around the middle of the volume, in millimetres, so that nothing is sheared where slices are further apart than
    pixels. degrees: within the slices (against the clock), then around the axis of columns and that of rows. elastic:
    as in make_warp(), in pixels of a row; points are as far apart in mm along the other axes, and move as far.

    Takes 12 bytes a voxel."""
    import numpy as np

    turn, of_columns, of_rows = (_rotate(angle, axes) for angle, axes in zip(degrees, _PLANES, strict=True))
    rotation = (of_rows @ of_columns @ turn) / zoom
    spacing, middle = np.array(spacing_mm), np.array(size) / 2
    # Of voxels: to millimetres, turned, and back.
    matrix = rotation * spacing[None, :] / spacing[:, None]
    at = [np.arange(side) + 0.5 - side / 2 for side in size]
    source = np.empty((3, *size), np.float32)
    for axis in range(3):
        z, y, x = (factor * along for factor, along in zip(matrix[axis], at, strict=True))
        source[axis] = z[:, None, None] + y[:, None] + (x + middle[axis])
    if elastic is not None:
        pixels, distance = elastic
        of_row = spacing[2] / spacing  # voxels of an axis in a pixel of a row
        points = tuple(max(2, round(side / (distance * of)) + 1) for side, of in zip(size, of_row, strict=True))
        moves = draw_normal((3, *points)) * (pixels * of_row)[:, None, None, None]
        source += _enlarge(moves.astype(np.float32), size)
    return Tilt(size, (1.0,) * 3, (0.0,) * 3, False, source=source, zoom=zoom)


_PLANES = ((1, 2), (0, 1), (0, 2))
"""The two axes that each of the turns mixes."""


def _rotate(degrees: float, axes: tuple[int, int]) -> np.ndarray:
    import numpy as np

    matrix, (first, second) = np.eye(3), axes
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = sin, -sin
    return matrix


def _enlarge(moves: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """[3, points of D, of H, of W] -> [3, D, H, W], cubic along each axis. torch has it in 2D alone: the planes come
    first, then the depth, as the height of a picture."""
    import torch
    from torch.nn.functional import interpolate

    depth, height, width = size
    planes = interpolate(torch.from_numpy(moves), size=(height, width), mode="bicubic", align_corners=True)
    flat = planes.reshape(3, 1, -1, height * width)
    found: np.ndarray = interpolate(flat, size=(depth, height * width), mode="bicubic", align_corners=True).numpy()
    return found.reshape(3, *size)


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


def apply_tilt(array: np.ndarray, tilt: Tilt, nearest: bool) -> np.ndarray:
    """[D, H, W, ...], of the same type, as apply_warp()."""
    import numpy as np

    sizes = array.shape[:3]
    if nearest:
        at = (
            np.clip(np.floor(along), 0, side - 1).astype(np.intp)
            for along, side in zip(tilt.source, sizes, strict=True)
        )
        found: np.ndarray = array[tuple(at)]
        return found
    import torch
    from torch.nn.functional import grid_sample

    shares = (along * np.float32(2 / side) - 1 for along, side in zip(tilt.source, sizes, strict=True))
    grid = torch.from_numpy(np.stack(tuple(shares)[::-1], -1))  # (x, y, z), as torch wants them
    flat = np.moveaxis(array.reshape(*sizes, -1), -1, 0)
    moved = [  # one channel at a time, because of the memory
        grid_sample(
            torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32))[None, None],
            grid[None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0, 0].numpy()
        for each in flat
    ]
    made = np.stack(moved, -1).reshape(array.shape)
    return made.astype(array.dtype) if array.dtype.kind == "f" else np.rint(made).astype(array.dtype)
