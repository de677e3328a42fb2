"""Transforms stored pixels to an encoder's input, the same in training, evaluation and the exported processor.

For 8-bit images it computes, bit for bit, what transformers' CLIPImageProcessor and SiglipImageProcessor (v5,
torchvision backend) compute with the settings of `processor_settings`. Axes: D depth, H, W, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError, ShapeError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Medium
from medvlm.data.pixels import decode
from medvlm.data.steps import Steps, deepen, place, plan_steps

_OURS = {
    "tiles": "stock image processors make a different kind of tiles",
    "windows": "stock image processors have no windows, and their channels are red, green and blue",
    "percentiles": "stock image processors have no window, and none per image",
    "spacing_mm": "stock image processors do not know the size of a pixel",
}
FULL_RANGE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
PIL_BICUBIC = 3


class MediaTransform:
    """Maps a stored image or volume to (pixels, canvas): the encoder's input, and how to place boxes on it.

    Films: uint8 or uint16 [H, W] or [H, W, 3] -> float32 [C, H, W]. 8-bit films without a window are resized in 8 bits,
    as stock processors do. Anything else is scaled to [0, 1] first and resized as float, which keeps the precision of
    16 bits. Volumes: any numbers [D, H, W], or frames in colour [D, H, W, 3] -> float32 [C, D, H, W]. Each window is a
    channel. Then (x - mean) / std. For an encoder of volumes, a film is a volume of equal slices. With `tiles` a film
    becomes [C, 1 + tiles, H, W]: the whole film, on which boxes are placed, then its tiles row by row.
    """

    def __init__(self, preprocess: Preprocess):
        self.preprocess = preprocess
        axes = len(preprocess.size)
        _check(preprocess)
        self._mean = torch.tensor(preprocess.mean).reshape(-1, *[1] * axes)
        self._std = torch.tensor(preprocess.std).reshape(-1, *[1] * axes)
        # Stock processors merge the division by 255 into mean and std; in another order, the last bit differs.
        self._mean_8bit, self._std_8bit = self._mean * (1.0 / (1 / 255)), self._std * (1.0 / (1 / 255))
        self._whole_and_large = [MediaTransform(p) for p in _whole_and_large(preprocess)] if preprocess.tiles else []

    def __call__(self, stored: np.ndarray | bytes, member: str, medium: Medium) -> tuple[torch.Tensor, Canvas]:
        """Raises DataError, naming the member, for pixels that are damaged or do not match the medium."""
        array = decode(stored, member) if isinstance(stored, bytes) else stored
        axes, deep = len(self.preprocess.size), deepen(medium, self.preprocess)
        array, medium = array if deep is medium else array[None], deep
        if array.shape[:axes] != medium.size or array.shape[axes:] not in ((), (3,)):
            raise DataError(
                f"{member}: an array of shape {array.shape}, but the sample says {medium.size} ({medium.kind}); pack"
                " the data set again"
            )
        if self.preprocess.windows and array.ndim > axes:
            raise DataError(
                f"{member}: is in colour, but preprocess.windows is for grey media; use an encoder without windows"
            )
        if self.preprocess.tiles:
            (whole, canvas), (large, _) = (transform(array, member, medium) for transform in self._whole_and_large)
            return torch.cat([whole[:, None], _cut_tiles(large, self.preprocess.tiles)], 1), canvas
        return self.apply(array, plan_steps(medium.size, medium.spacing_mm, self.preprocess, member), member)

    def apply(self, array: np.ndarray, steps: Steps, member: str) -> tuple[torch.Tensor, Canvas]:
        return (self._film if len(steps.size) == 2 else self._volume)(array, steps, member)

    def _film(self, array: np.ndarray, steps: Steps, member: str) -> tuple[torch.Tensor, Canvas]:
        as_8bit = array.dtype == np.uint8 and _is_plain(self.preprocess)
        scaled = [array] if as_8bit else [_scale(array, *band) for band in _find_bands(array, self.preprocess, member)]
        pixels_CHW = torch.cat(
            [_put_channels_first(each, 1 if self.preprocess.windows else self.preprocess.channels) for each in scaled]
        )
        resized = place(_resize_bicubic(pixels_CHW, steps.resized), steps)
        if as_8bit:
            return (resized.float() - self._mean_8bit).div_(self._std_8bit), steps.canvas
        return (resized - self._mean).div_(self._std), steps.canvas

    def _volume(self, array: np.ndarray, steps: Steps, member: str) -> tuple[torch.Tensor, Canvas]:
        array = _compute_luma(array) if array.ndim == 4 and self.preprocess.channels == 1 else array
        bands = _find_bands(array, self.preprocess, member)
        planes = [array] if array.ndim == 3 else [array[..., c] for c in range(3)]
        resized_CDHW = torch.stack(
            [_resize_volume(torch.from_numpy(_scale(x, *band)), steps.resized) for band in bands for x in planes]
        )
        return (place(resized_CDHW, steps) - self._mean).div_(self._std), steps.canvas


def make_processor_settings(preprocess: Preprocess) -> dict[str, Any]:
    """Arguments with which CLIPImageProcessor or SiglipImageProcessor does the same to 8-bit images.

    Stock processors take 8 bits and have no window. Images with more bits, or of a source with a window, go through
    `to_display` first, which costs at most half a grey level. Raises ShapeError for settings that they do not support,
    see explain_not_stock()."""
    if reason := explain_not_stock(preprocess):
        raise ShapeError(f"preprocess.{reason}; use export.target: custom")
    height, width = preprocess.size
    cut = preprocess.fit == "crop"
    return {
        "do_convert_rgb": preprocess.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": max(height, width)} if cut else {"height": height, "width": width},
        "resample": PIL_BICUBIC,
        "do_center_crop": cut,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def explain_not_stock(preprocess: Preprocess) -> str | None:
    """Why no stock image processor of transformers supports these settings, or None if one does."""
    if len(preprocess.size) != 2:
        return f"size is {preprocess.size}: stock image processors do not take volumes"
    if preprocess.stack > 1:
        return f"stack is {preprocess.stack}: stock image processors take each image by itself"
    for name, why in _OURS.items():
        if getattr(preprocess, name):
            return f"{name} is set: {why}"
    return None


def to_display(array: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Stored pixels in 8 bits, in the same shape, with black and white at the ends of the (first) window. For people
    and stock processors."""
    if array.dtype == np.uint8 and _is_plain(preprocess):
        return array
    return (_scale(array, *_find_bands(array, preprocess, "image")[0]) * 255 + 0.5).astype(np.uint8)


def to_pictures(array: np.ndarray, preprocess: Preprocess, medium: Medium) -> np.ndarray:
    """Stored pixels as 8-bit colour [..., 3]: with one window, or with three windows as red, green and blue. Grey
    becomes three equal channels.

    Raises DataError for pixels that do not match the medium, or that have neither a full range nor a window.
    """
    axes = len(medium.size)
    if array.shape[:axes] != medium.size or array.shape[axes:] not in ((), (3,)):
        raise DataError(
            f"{medium.member}: an array of shape {array.shape}, but the sample says {medium.size} ({medium.kind}); pack"
            " the data set again"
        )
    in_colour = array.ndim > axes
    if preprocess.windows and in_colour:
        raise DataError(f"{medium.member}: is in colour, but `windows` is for grey media; remove `windows`")
    if array.dtype == np.uint8 and _is_plain(preprocess):
        shown = [array]
    else:
        shown = [
            (_scale(array, *band) * 255 + 0.5).astype(np.uint8)
            for band in _find_bands(array, preprocess, medium.member)
        ]
    return shown[0] if in_colour else np.stack(shown * 3 if len(shown) == 1 else shown, -1)


def show_input(pixels: torch.Tensor, preprocess: Preprocess) -> np.ndarray:
    """What an encoder sees, as an 8-bit picture [H, W] or [H, W, 3]: the middle slice of a volume, the current film of
    two, the whole of a tiled film. Three channels are shown as colours; of two, or of more than three, the first."""
    shape = (-1, *[1] * (pixels.ndim - 1))
    shown = pixels.cpu() * torch.tensor(preprocess.std).reshape(shape) + torch.tensor(preprocess.mean).reshape(shape)
    if shown.ndim == 4:
        shown = shown[:, 0 if preprocess.tiles else shown.shape[1] // 2]
    picture = (shown.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    is_grey = picture.shape[2] != 3 or (picture == picture[..., :1]).all()
    return np.ascontiguousarray(picture[..., 0] if is_grey else picture)


def _check(preprocess: Preprocess) -> None:
    """Raises ShapeError for settings that do not fit together."""
    channels, axes = preprocess.channels, len(preprocess.size)
    if axes not in (2, 3) or (axes == 3 and preprocess.fit == "crop" and preprocess.spacing_mm is None):
        raise ShapeError(
            f"preprocess.size is {preprocess.size} with fit: {preprocess.fit}; "
            "expected (height, width), or (depth, height, width) with fit: squash"
        )
    if preprocess.spacing_mm is not None and (len(preprocess.spacing_mm) != axes or preprocess.fit != "crop"):
        raise ShapeError(
            f"preprocess.spacing_mm is {preprocess.spacing_mm} with fit: {preprocess.fit}; expected a spacing for each"
            " axis of size, and fit: crop"
        )
    expected = (len(preprocess.windows),) if preprocess.windows else (1, 3)
    if not len(preprocess.mean) == len(preprocess.std) == channels or channels not in expected:
        raise ShapeError(
            f"preprocess.channels is {channels} with {len(preprocess.mean)} values of mean and {len(preprocess.std)} of"
            f" std; expected {' or '.join(map(str, expected))} channels and one value each"
        )
    if sum((preprocess.window is not None, bool(preprocess.windows), preprocess.percentiles is not None)) > 1:
        raise ShapeError("preprocess has more than one of window, windows and percentiles; expected one")
    if (preprocess.tiles or preprocess.stack > 1) and (axes != 2 or (preprocess.tiles and preprocess.stack > 1)):
        raise ShapeError(
            "preprocess has both tiles and stack, or one of them for volumes; expected one of them, with size: [height,"
            " width]"
        )
    if (
        preprocess.tiles
        and preprocess.tiles[0] != preprocess.tiles[1]
        and preprocess.fit == "crop"
        and preprocess.spacing_mm is None
    ):
        raise ShapeError(
            f"preprocess.tiles is {preprocess.tiles} with fit: crop, which would take the tiles from another part of"
            " the film than the whole; use fit: squash, or as many rows as columns"
        )
    low, high = preprocess.percentiles or (0, 100)
    if not 0 <= low < high <= 100 or any(
        low >= high for low, high in (*preprocess.windows, *filter(None, [preprocess.window]))
    ):
        raise ShapeError(
            "preprocess has a window or percentiles whose first value is not below the second, or percentiles"
            " outside of 0 to 100"
        )


def _whole_and_large(preprocess: Preprocess) -> tuple[Preprocess, Preprocess]:
    """The preprocessing of the whole film at the size of one tile, and at the size of all tiles."""
    whole = preprocess.model_copy(update={"tiles": None})
    assert preprocess.tiles is not None
    finer: dict[str, Any] = {"size": tuple(side * n for side, n in zip(preprocess.size, preprocess.tiles, strict=True))}
    if preprocess.spacing_mm is not None:
        finer["spacing_mm"] = tuple(mm / n for mm, n in zip(preprocess.spacing_mm, preprocess.tiles, strict=True))
    return whole, whole.model_copy(update=finer)


def _cut_tiles(large_CHW: torch.Tensor, tiles: tuple[int, int]) -> torch.Tensor:
    """[C, rows * H, columns * W] -> [C, rows * columns, H, W]."""
    rows, columns = tiles
    return large_CHW.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).transpose(2, 3).flatten(1, 2)


def _is_plain(preprocess: Preprocess) -> bool:
    return preprocess.window is None and not preprocess.windows and preprocess.percentiles is None


def _find_bands(array: np.ndarray, preprocess: Preprocess, member: str) -> list[tuple[float, float]]:
    """The intensities that become 0 and 1: of each window, of the percentiles, or the range of an unsigned type."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{member}: has NaN or infinite intensities; repair the original file and pack again")
    if preprocess.windows:
        return list(preprocess.windows)
    if preprocess.window is not None:
        return [preprocess.window]
    if preprocess.percentiles is not None:
        low, high = (float(x) for x in np.percentile(array, preprocess.percentiles))
        if low == high:
            raise DataError(
                f"{member}: its percentiles {preprocess.percentiles} are equal, so it would be a uniform image;"
                " leave it out"
            )
        return [(low, high)]
    if array.dtype in FULL_RANGE:
        return [(0.0, FULL_RANGE[array.dtype])]
    raise DataError(
        f"{member}: {array.dtype} intensities have no range to scale by; "
        "set preprocess.window of the encoder, e.g. [-160, 240] for soft tissue in HU, or preprocess.percentiles"
    )


def _scale(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32 in [0, 1]."""
    scaled = (array.astype(np.float32) - np.float32(low)) * np.float32(1 / (high - low))
    return np.clip(scaled, 0, 1, out=scaled)


def _put_channels_first(array: np.ndarray, channels: int) -> torch.Tensor:
    """[H, W] -> [1, H, W], which mean and std widen to 3 equal channels; [H, W, 3] -> [3, H, W] or, for one channel,
    its luma."""
    if array.ndim == 3 and channels == 1:
        array = _compute_luma(array)
    if not array.flags.writeable:  # torch warns about memory that it could not write to
        array = array.copy()
    pixels = torch.from_numpy(array)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _compute_luma(array: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, as Pillow's convert("L"): equal channels stay as they are."""
    if array.dtype == np.uint8:
        red, green, blue = (array[..., c].astype(np.uint32) for c in range(3))
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
    return array @ np.array([0.299, 0.587, 0.114], np.float32)


def _resize_bicubic(pixels_CHW: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    if pixels_CHW.shape[-2:] == size:
        return pixels_CHW
    if pixels_CHW.dtype == torch.uint8:
        return interpolate(pixels_CHW[None], size=size, mode="bicubic", antialias=True)[0]
    # Bicubic interpolation overshoots at edges. In 8 bits, values are clipped after each axis, the width first. The
    # same clipping here keeps windowed films within 1.5 grey levels of their 8-bit versions (14 without it, next to
    # white).
    wide = interpolate(pixels_CHW[None], size=(pixels_CHW.shape[-2], size[1]), mode="bicubic", antialias=True).clamp_(
        0, 1
    )
    return interpolate(wide, size=size, mode="bicubic", antialias=True).clamp_(0, 1)[0]


def _resize_volume(volume_DHW: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Trilinear, with antialiasing if an axis shrinks, so that a thin finding gets fainter but is not lost.

    torch has antialiasing in 2D only. Linear interpolation is separable, so the slices are resized first, then the
    depth, as the height of a picture. If no axis shrinks, this equals torch's `trilinear`.
    """
    depth, height, width = size
    if volume_DHW.shape[1:] != (height, width):
        volume_DHW = interpolate(volume_DHW[None], size=(height, width), mode="bilinear", antialias=True)[0]
    if volume_DHW.shape[0] != depth:
        flat = volume_DHW.reshape(1, 1, volume_DHW.shape[0], height * width)
        volume_DHW = interpolate(flat, size=(depth, height * width), mode="bilinear", antialias=True).reshape(
            depth, height, width
        )
    return volume_DHW
