"""From stored pixels to an encoder's input: one object for training, evaluation and the exported processor.

For 8-bit images it computes, bit for bit, what transformers' CLIPImageProcessor and SiglipImageProcessor (v5,
torchvision backend) compute with the settings of `processor_settings`. Axes: D depth, H height, W width,
C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError, ShapeError
from medvlm.core.geometry import Canvas, crop, resize
from medvlm.core.sample import Medium
from medvlm.io.images import decode

FULL_RANGE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
PIL_BICUBIC = 3


class MediaTransform:
    """Called with a stored image or volume, gives (pixels, canvas): what the encoder sees, and where boxes lie on it.

    Films: uint8 or uint16 [H, W] or [H, W, 3] -> float32 [C, H, W]. 8-bit without a window is resized as 8-bit,
    like stock processors do; anything else becomes [0, 1] first and is resized as float, so that 16 bits stay
    16 bits. Volumes: any numbers [D, H, W] -> float32 [C, D, H, W]. Then (x - mean) / std.
    """

    def __init__(self, preprocess: Preprocess):
        self.preprocess = preprocess
        channels, axes = preprocess.channels, len(preprocess.size)
        if axes not in (2, 3) or (axes == 3 and preprocess.fit == "crop"):
            raise ShapeError(
                f"preprocess.size is {preprocess.size} with fit: {preprocess.fit}; "
                "expected (height, width), or (depth, height, width) with fit: squash"
            )
        if not len(preprocess.mean) == len(preprocess.std) == channels or channels not in (1, 3):
            raise ShapeError(
                f"preprocess.channels is {channels} with {len(preprocess.mean)} values of mean and {len(preprocess.std)} of std; "
                "expected 1 or 3 channels and one value each"
            )
        self._mean = torch.tensor(preprocess.mean).reshape(-1, *[1] * axes)
        self._std = torch.tensor(preprocess.std).reshape(-1, *[1] * axes)
        # Stock processors fold the division by 255 into mean and std; in another order the last bit differs.
        self._mean_8bit, self._std_8bit = self._mean * (1.0 / (1 / 255)), self._std * (1.0 / (1 / 255))

    def __call__(self, stored: np.ndarray | bytes, member: str, medium: Medium) -> tuple[torch.Tensor, Canvas]:
        """Raises DataError, naming the member, for pixels that are damaged or are not what the medium says."""
        array = decode(stored, member) if isinstance(stored, bytes) else stored
        axes = len(self.preprocess.size)
        size = array.shape[:axes]
        if size != medium.size or array.shape[axes:] not in (((), (3,)) if axes == 2 else ((),)):
            raise DataError(
                f"{member}: holds an array of shape {array.shape}, but the sample says {medium.size} ({medium.kind}); pack the data set again"
            )
        return self._film(array, member) if axes == 2 else self._volume(array, member)

    def _film(self, array: np.ndarray, member: str) -> tuple[torch.Tensor, Canvas]:
        as_8bit = array.dtype == np.uint8 and self.preprocess.window is None
        pixels_CHW = _channels_first(array if as_8bit else _windowed(array, self.preprocess, member), self.preprocess.channels)
        resized, canvas = _fitted(pixels_CHW, self.preprocess)
        if as_8bit:
            return (resized.float() - self._mean_8bit).div_(self._std_8bit), canvas
        return (resized - self._mean).div_(self._std), canvas

    def _volume(self, array: np.ndarray, member: str) -> tuple[torch.Tensor, Canvas]:
        volume_DHW = torch.from_numpy(_windowed(array, self.preprocess, member))
        resized = _resize_volume(volume_DHW, self.preprocess.size)
        return (resized[None] - self._mean).div_(self._std), resize(array.shape, self.preprocess.size)


def processor_settings(preprocess: Preprocess) -> dict[str, Any]:
    """Arguments with which CLIPImageProcessor or SiglipImageProcessor does the same to 8-bit images.

    Stock processors know 8 bits and no window: images of more bits, or of a source with a window, go through
    `to_display` first, which costs at most half a grey level. Raises ShapeError for volumes.
    """
    if len(preprocess.size) != 2:
        raise ShapeError(f"preprocess.size is {preprocess.size}: no stock image processor takes volumes; use export.target: custom")
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


def to_display(array: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Stored pixels as 8-bit of the same shape, black and white at the ends of the window: for eyes and stock processors."""
    if array.dtype == np.uint8 and preprocess.window is None:
        return array
    return (_windowed(array, preprocess, "image") * 255 + 0.5).astype(np.uint8)


def perceived(pixels: torch.Tensor, preprocess: Preprocess) -> np.ndarray:
    """What an encoder sees, as an 8-bit picture [H, W] or [H, W, 3]; the middle slice of a volume."""
    shape = (-1, *[1] * (pixels.ndim - 1))
    shown = pixels.cpu() * torch.tensor(preprocess.std).reshape(shape) + torch.tensor(preprocess.mean).reshape(shape)
    if shown.ndim == 4:
        shown = shown[:, shown.shape[1] // 2]
    picture = (shown.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    is_grey = picture.shape[2] == 1 or (picture == picture[..., :1]).all()
    return np.ascontiguousarray(picture[..., 0] if is_grey else picture)


def _windowed(array: np.ndarray, preprocess: Preprocess, member: str) -> np.ndarray:
    """float32 in [0, 1]: the window, or the full range of an unsigned type."""
    if preprocess.window is not None:
        low, high = preprocess.window
    elif array.dtype in FULL_RANGE:
        low, high = 0.0, FULL_RANGE[array.dtype]
    else:
        raise DataError(
            f"{member}: {array.dtype} intensities have no full range to scale by; "
            "set preprocess.window of the encoder, e.g. [-160, 240] for soft tissue in HU"
        )
    scaled = (array.astype(np.float32) - np.float32(low)) * np.float32(1 / (high - low))
    if array.dtype.kind == "f" and not np.isfinite(scaled).all():
        raise DataError(f"{member}: holds NaN or infinite intensities; repair it in the archive and pack again")
    return np.clip(scaled, 0, 1, out=scaled)


def _channels_first(array: np.ndarray, channels: int) -> torch.Tensor:
    """[H, W] -> [1, H, W], which mean and std widen to 3 equal channels; [H, W, 3] -> [3, H, W] or, for one channel, its luma."""
    if array.ndim == 3 and channels == 1:
        array = _luma(array)
    if not array.flags.writeable:  # torch warns about memory that it could not write to
        array = array.copy()
    pixels = torch.from_numpy(array)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _luma(array: np.ndarray) -> np.ndarray:
    """ITU-R 601-2, as Pillow's convert("L"): equal channels stay as they are."""
    if array.dtype == np.uint8:
        red, green, blue = (array[..., c].astype(np.uint32) for c in range(3))
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
    return array @ np.array([0.299, 0.587, 0.114], np.float32)


def _fitted(pixels_CHW: torch.Tensor, preprocess: Preprocess) -> tuple[torch.Tensor, Canvas]:
    """Resized by antialiased bicubic interpolation and, with fit: crop, its centre cut out."""
    height, width = pixels_CHW.shape[-2:]
    target_h, target_w = preprocess.size
    if preprocess.fit == "squash":
        return _bicubic(pixels_CHW, (target_h, target_w)), resize((height, width), (target_h, target_w))
    short, edge = min(height, width), max(target_h, target_w)
    new_h, new_w = int(edge * height / short), int(edge * width / short)
    top, left = (new_h - target_h) // 2, (new_w - target_w) // 2
    resized = _bicubic(pixels_CHW, (new_h, new_w))[:, top : top + target_h, left : left + target_w]
    canvas = resize((height, width), (new_h, new_w)).then(crop((new_h, new_w), top, left, (target_h, target_w)))
    return resized.contiguous(), canvas


def _bicubic(pixels_CHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if pixels_CHW.shape[-2:] == size:
        return pixels_CHW
    if pixels_CHW.dtype == torch.uint8:
        return interpolate(pixels_CHW[None], size=size, mode="bicubic", antialias=True)[0]
    # Bicubic overshoots at edges. In 8 bits that is cut off by the range after each axis, the width first; doing the
    # same here keeps windowed films within 1.5 grey levels of their 8-bit selves (without it 14, next to white).
    wide = interpolate(pixels_CHW[None], size=(pixels_CHW.shape[-2], size[1]), mode="bicubic", antialias=True).clamp_(0, 1)
    return interpolate(wide, size=size, mode="bicubic", antialias=True).clamp_(0, 1)[0]


def _resize_volume(volume_DHW: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Trilinear, with antialiasing where an axis shrinks, so that a thin finding is dimmed and not skipped.

    torch offers antialiasing in 2D only; linear interpolation is separable, so slices are resized first and
    the depth of the result afterwards as the height of a picture. Where no axis shrinks this is torch's `trilinear`.
    """
    depth, height, width = size
    if volume_DHW.shape[1:] != (height, width):
        volume_DHW = interpolate(volume_DHW[None], size=(height, width), mode="bilinear", antialias=True)[0]
    if volume_DHW.shape[0] != depth:
        flat = volume_DHW.reshape(1, 1, volume_DHW.shape[0], height * width)
        volume_DHW = interpolate(flat, size=(depth, height * width), mode="bilinear", antialias=True).reshape(depth, height, width)
    return volume_DHW
