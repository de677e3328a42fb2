"""Random changes of intensities, of images and volumes: blur, bias field, gamma, gain, brightness and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

DEGREE = 3
"""Of the polynomial of a bias field, as in MONAI's RandBiasField."""
_COUNTED = 1 << 16
"""Pixels of which percentiles are taken."""


@dataclass(frozen=True)
class Light:
    """One change, drawn. gain and brightness as in Augment, already drawn. gamma: the exponent. bias: coefficients of
    Legendre polynomials, one axis each, or None. blur_px: the standard deviation."""

    gain: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    gamma: float = 1.0
    bias: np.ndarray | None = None
    blur_px: float = 0.0


def change_intensities(array: np.ndarray, axes: int, light: Light, draw_noise: Callable[..., np.ndarray]) -> np.ndarray:
    """The array with other intensities, of the same type. axes: how many are space; colours follow them.

    uint8 and uint16 keep within their full range. Other types have none, as of CT and MR: theirs is from the 0.5th to
    the 99.5th percentile, and nothing is cut off. draw_noise: (shape, dtype) -> normal numbers.
    """
    import numpy as np

    low, high = _find_range(array)
    full = np.float32(high - low)
    changed = array if low == 0 else array - np.float32(low)
    if light.blur_px:
        from scipy.ndimage import gaussian_filter

        sigmas = (light.blur_px,) * axes + (0.0,) * (array.ndim - axes)
        changed = gaussian_filter(changed.astype(np.float32), sigmas, mode="nearest")
    if light.bias is not None:
        field = make_bias_field(array.shape[:axes], light.bias)
        changed = changed * field.reshape(*field.shape, *[1] * (array.ndim - axes))
    if light.gamma != 1:
        share = np.clip(changed.astype(np.float32) / full, 0, None)
        changed = np.where(changed < 0, changed, share ** np.float32(light.gamma) * full)
    lit = changed * np.float32(1 + light.gain) + np.float32(light.brightness) * full
    if light.noise:
        lit += draw_noise(array.shape, np.float32) * (np.float32(light.noise) * full)
    return _store(lit, array, low, full)


def change_shares(array: np.ndarray, axes: int, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The same by a function of shares of the range, float32 [C, *space]. axes: how many are space."""
    import numpy as np

    low, high = _find_range(array)
    full = np.float32(high - low) or np.float32(1)
    colours = array if array.ndim > axes else array[..., None]
    shares = (np.moveaxis(colours, -1, 0).astype(np.float32) - np.float32(low)) / full
    changed = np.moveaxis(change(np.ascontiguousarray(shares)), 0, -1) * full
    return _store(changed.reshape(array.shape), array, low, full)


def _store(lit: np.ndarray, array: np.ndarray, low: float, full: np.float32) -> np.ndarray:
    """Intensities above `low` in the type of the array."""
    import numpy as np

    if _has_full_range(array):
        return (np.clip(lit, 0, full) + np.float32(0.5)).astype(array.dtype)
    lit = lit + np.float32(low)
    if array.dtype.kind == "f":
        return lit.astype(array.dtype)
    info = np.iinfo(array.dtype)
    return np.clip(np.rint(lit), info.min, info.max).astype(array.dtype)


def make_bias_field(shape: tuple[int, ...], coefficients: np.ndarray) -> np.ndarray:
    """A smooth factor for each pixel, float32: exp of a sum of products of Legendre polynomials of the coordinates,
    which go from -1 to 1 along each axis. coefficients: [DEGREE + 1] * axes.

    Source: MONAI's RandBiasField (Van Leemput et al. 1999, https://doi.org/10.1109/42.811270). There they are from 0 to
    0.1 and of a total degree up to 3; here they have both signs, and the constant, which is a gain, is 0."""
    import numpy as np

    field = coefficients
    for length in shape:  # the first axis of the coefficients becomes the last one of the field
        along = np.polynomial.legendre.legvander(np.linspace(-1, 1, length), DEGREE)
        field = np.tensordot(field, along, axes=(0, 1))
    return np.exp(field).astype(np.float32)


def draw_bias(limit: float, axes: int, draw: Callable[..., np.ndarray]) -> np.ndarray:
    """Coefficients between plus and minus a limit, of terms with a total degree from 1 to DEGREE."""
    import numpy as np

    shape = (DEGREE + 1,) * axes
    degrees = np.indices(shape).sum(axis=0)
    drawn: np.ndarray = draw(-limit, limit, shape)
    return np.where((degrees > 0) & (degrees <= DEGREE), drawn, 0.0)


def _has_full_range(array: np.ndarray) -> bool:
    import numpy as np

    return array.dtype in (np.uint8, np.uint16)


def _find_range(array: np.ndarray) -> tuple[float, float]:
    import numpy as np

    if _has_full_range(array):
        return 0.0, float(np.iinfo(array.dtype).max)
    few = array.reshape(-1)[:: max(1, array.size // _COUNTED)]
    low, high = (float(x) for x in np.percentile(few, [0.5, 99.5]))
    return low, high if high > low else low + 1.0
