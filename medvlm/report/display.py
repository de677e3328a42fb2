"""Converts stored pixels to pictures for the page, and describes how.

Axes: D H W depth, height, width.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from medvlm.core.sample import Medium
from medvlm.io.images import encode_png
from medvlm.report import numbers

if TYPE_CHECKING:
    import numpy as np

WIDEST = 360
"""Pixels of the longer side: enough to see a box, and small enough for dozens of images in a file."""
SLICES = 24
"""Of a volume, at equal distances."""
WIDEST_SLICE = 224
QUALITY = 85
"""Of the JPEG of a slice: 48 volumes of 24 slices are some 10 MB."""
CT_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue: center 40, width 400."""


def is_scrolled(pixels: np.ndarray, medium: Medium) -> bool:
    """Whether pixels are a volume [D, H, W] or a video [D, H, W, 3]."""
    return pixels.ndim == 4 or (pixels.ndim == 3 and len(medium.size) == 3)


def make_png(pixels: np.ndarray, medium: Medium) -> tuple[bytes, str]:
    """An 8-bit PNG, and how its grey values were computed ("" if they are the stored values)."""
    grey, words = _scale_grey(pixels, medium)
    return _encode_resized(grey, WIDEST), words


def make_slices(pixels: np.ndarray, medium: Medium) -> tuple[list[bytes], list[str], str]:
    """JPEGs of at most SLICES slices of a volume, or frames of a video, the name of each, and what was shown how.

    The ends of a volume are left out if not all slices are shown, as they are often air."""
    depth = len(pixels)
    count = min(SLICES, depth)
    picked = [round(depth * (i + 0.5) / count - 0.5) for i in range(count)]
    grey, words = _scale_grey(pixels[picked], medium)
    noun = "frame" if pixels.ndim == 4 else "slice"
    apart = medium.spacing_mm[0] if medium.spacing_mm and len(medium.spacing_mm) == 3 and noun == "slice" else None
    names = [f"{noun} {i + 1} of {depth}{f', {i * apart:.0f} mm' if apart else ''}" for i in picked]
    shown = f"{count} of {depth} {noun}s" if count < depth else f"all {noun}s"
    return [_encode_jpeg(each) for each in grey], names, ", ".join(filter(None, [shown, words]))


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


def _encode_jpeg(pixels: np.ndarray) -> bytes:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((WIDEST_SLICE, WIDEST_SLICE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


def _encode_resized(pixels: np.ndarray, widest: int) -> bytes:
    from PIL import Image

    longer = max(pixels.shape[:2])
    if longer <= widest:
        return encode_png(pixels)
    size = tuple(max(1, round(n * widest / longer)) for n in (pixels.shape[1], pixels.shape[0]))
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
    return out.getvalue()
