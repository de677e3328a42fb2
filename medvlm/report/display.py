"""Converts stored pixels to PNGs for the page, and describes how.

Axes: D H W depth, height, width.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from medvlm.core.sample import Medium
from medvlm.io.images import decode, encode_png
from medvlm.report import numbers

if TYPE_CHECKING:
    import numpy as np

WIDEST = 360
"""Pixels of the longer side: enough to see a box, and small enough for dozens of images in a file."""
SLICES = 5
CT_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue: center 40, width 400."""


def make_png(data: bytes, medium: Medium, name: str) -> tuple[bytes, str]:
    """An 8-bit PNG, and how its grey values were computed ("" if they are the stored values).

    A volume becomes a row of slices at equal distances, and a video [D, H, W, 3] a row of frames. Raises DataError with
    `name` for damaged bytes."""
    pixels = decode(data, name)
    if pixels.ndim == 4 or (pixels.ndim == 3 and len(medium.size) == 3):
        grey, words = _scale_grey(_join_slices(pixels), medium)
        noun = "frames" if pixels.ndim == 4 else "slices"
        shown = f"{SLICES} of {len(pixels)} {noun}" if len(pixels) > SLICES else f"all {noun}"
        return _encode_resized(grey, WIDEST * 2), ", ".join(filter(None, [shown, words]))
    grey, words = _scale_grey(pixels, medium)
    return _encode_resized(grey, WIDEST), words


def _join_slices(volume_DHW: np.ndarray) -> np.ndarray:
    """Slices side by side, [H, n * W], or [H, n * W, 3] in colour. The ends of the volume are left out, as they are
    often air."""
    import numpy as np

    depth = len(volume_DHW)
    n = min(SLICES, depth)
    picked = [round(depth * (i + 0.5) / n - 0.5) for i in range(n)]
    return np.concatenate([volume_DHW[i] for i in picked], axis=1)


def _scale_grey(pixels: np.ndarray, medium: Medium) -> tuple[np.ndarray, str]:
    """uint8 [H, W] or [H, W, 3]."""
    import numpy as np

    if pixels.dtype == np.uint8:
        return pixels, ""
    if medium.unit == "HU":
        low, high = CT_WINDOW_HU
        words = f"shown from {numbers.format_tick(low)} to {numbers.format_tick(high)} HU"
    else:
        low, high = (float(x) for x in np.percentile(pixels, (1, 99)))
        words = f"shown from the 1st to the 99th percentile ({low:g} to {high:g})"
    # An image with a single value has no range and is shown black.
    scaled = (pixels.astype(np.float32) - low) / (high - low or 1)
    return (scaled.clip(0, 1) * 255 + 0.5).astype(np.uint8), words


def _encode_resized(pixels: np.ndarray, widest: int) -> bytes:
    from PIL import Image

    longer = max(pixels.shape[:2])
    if longer <= widest:
        return encode_png(pixels)
    size = tuple(max(1, round(n * widest / longer)) for n in (pixels.shape[1], pixels.shape[0]))
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
    return out.getvalue()
