"""Stored pixels to something a screen can show, and words for what was done to them.

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
"""Pixels of the longer side in the page; enough to see a box, small enough for dozens in one file."""
SLICES = 5
CT_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue: centre 40, width 400."""


def make_png(data: bytes, medium: Medium, name: str) -> tuple[bytes, str]:
    """An 8-bit PNG, and how its grey values were computed ("" if they are the stored ones).

    A volume becomes a row of slices at equal distances. Raises DataError, with `name`, for damaged bytes."""
    pixels = decode(data, name)
    if pixels.ndim == 3 and len(medium.size) == 3:
        strip, words = (
            _grey(_slices(pixels), medium),
            f"{SLICES} of {len(pixels)} slices" if len(pixels) > SLICES else "all slices",
        )
        return _png(strip[0], WIDEST * 2), ", ".join(filter(None, [words, strip[1]]))
    grey, words = _grey(pixels, medium)
    return _png(grey, WIDEST), words


def _slices(volume_DHW: np.ndarray) -> np.ndarray:
    """Slices side by side, [H, n * W]; the first and last tenth of a volume is often air."""
    import numpy as np

    depth = len(volume_DHW)
    n = min(SLICES, depth)
    picked = [round(depth * (i + 0.5) / n - 0.5) for i in range(n)]
    return np.concatenate([volume_DHW[i] for i in picked], axis=1)


def _grey(pixels: np.ndarray, medium: Medium) -> tuple[np.ndarray, str]:
    """uint8 [H, W] or [H, W, 3]."""
    import numpy as np

    if pixels.dtype == np.uint8:
        return pixels, ""
    if medium.unit == "HU":
        (low, high), words = (
            CT_WINDOW_HU,
            f"shown from {numbers.tick(CT_WINDOW_HU[0])} to {numbers.tick(CT_WINDOW_HU[1])} HU",
        )
    else:
        low, high = (float(x) for x in np.percentile(pixels, (1, 99)))
        words = f"shown from its 1st to its 99th percentile ({low:g} to {high:g})"
    # An image of one value has no range; it is black, as it would be in any window that begins there.
    scaled = (pixels.astype(np.float32) - low) / (high - low or 1)
    return (scaled.clip(0, 1) * 255 + 0.5).astype(np.uint8), words


def _png(pixels: np.ndarray, widest: int) -> bytes:
    from PIL import Image

    longer = max(pixels.shape[:2])
    if longer <= widest:
        return encode_png(pixels)
    size = tuple(max(1, round(n * widest / longer)) for n in (pixels.shape[1], pixels.shape[0]))
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
    return out.getvalue()
