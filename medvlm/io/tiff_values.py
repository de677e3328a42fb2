"""Converts the samples of a TIFF page to shades from black to white, colours, or a quantity.

Axes: H W height, width, S samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medvlm.core.errors import DataError

if TYPE_CHECKING:
    from tifffile import TiffPage

MAX_EXACT = 1 << 24
"""float32 represents every whole number up to this one."""
_WHITE_IS_ZERO, _PALETTE = 0, 3


def is_shades(page: TiffPage) -> bool:
    """Whether the samples are unsigned integers of at most 16 bits (or palette indices)."""
    assert page.dtype is not None
    return page.dtype.kind in "bu" and page.bitspersample <= 16


def to_shades(samples_HWS: np.ndarray, page: TiffPage) -> np.ndarray:
    """[H, W] or [H, W, 3], uint8 or uint16 scaled to their full range. Raises DataError for transparent pixels, and for
    samples that have no black and white."""
    if not is_shades(page):
        raise DataError(
            f"{page.dtype} samples have no black and white; set unit: raw in the card, and preprocess.window or"
            " percentiles in the recipe"
        )
    if page.photometric == _PALETTE:
        return _apply_palette(samples_HWS, page)
    bits = page.bitspersample
    top = (1 << bits) - 1
    samples_HWS = _drop_alpha(samples_HWS, page, top)
    if page.photometric == _WHITE_IS_ZERO:
        samples_HWS = top - samples_HWS.astype(np.uint16)
    full = 255 if bits <= 8 else 65535
    if top != full:  # exact for 1, 2 and 4 bits (255 is a multiple of their maximum); 12 bits are rounded
        samples_HWS = (samples_HWS.astype(np.uint32) * full + top // 2) // top
    return _squeeze(samples_HWS.astype(np.uint8 if bits <= 8 else np.uint16))


def to_quantity(samples_HWS: np.ndarray, page: TiffPage) -> np.ndarray:
    """[H, W] or [H, W, 3] with the stored values: uint8, uint16 or int16 if they fit, else float32."""
    if page.photometric in (_WHITE_IS_ZERO, _PALETTE):
        raise DataError(
            "its tags say that its values are shades (white is 0, or a palette), not a quantity; set unit: display"
        )
    assert page.dtype is not None
    values = _squeeze(
        _drop_alpha(samples_HWS, page, (1 << page.bitspersample) - 1 if page.dtype.kind in "bu" else None)
    )
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(
                "it holds NaN or infinite pixels, or values beyond the range of float32; repair it in the archive"
            )
        return values
    if values.dtype in (np.uint8, np.uint16, np.int16):
        return values
    if values.dtype == bool:
        return values.astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    if low >= -32768 and high <= 32767:
        return values.astype(np.int16)
    if max(-low, high) > MAX_EXACT:
        raise DataError(f"it holds whole numbers beyond {MAX_EXACT:,}, which would be rounded")
    return values.astype(np.float32)


def _drop_alpha(samples_HWS: np.ndarray, page: TiffPage, top: int | None) -> np.ndarray:
    """The samples without the alpha channel, if there is one. Raises DataError if any pixel is not opaque. top: the
    value of an opaque pixel."""
    if not page.extrasamples:
        return samples_HWS
    if top is None or (samples_HWS[..., -1] != top).any():
        raise DataError(
            "it has transparent pixels, whose values are undefined (or another extra channel); flatten it first"
        )
    return samples_HWS[..., :-1]


def _apply_palette(samples_HWS: np.ndarray, page: TiffPage) -> np.ndarray:
    """The colours of a palette image, uint8. Palette entries have 16 bits; some programs write 8 bits into the low
    byte."""
    table_S3 = np.asarray(page.colormap).T
    if page.extrasamples or samples_HWS.max() >= len(table_S3):
        raise DataError("its palette has fewer colours than its pixels use, or the image is transparent")
    colours = table_S3[samples_HWS[..., 0].astype(np.intp)]
    return (colours >> (8 if int(table_S3.max()) > 255 else 0)).astype(np.uint8)


def _squeeze(samples_HWS: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(samples_HWS[..., 0] if samples_HWS.shape[-1] == 1 else samples_HWS)
