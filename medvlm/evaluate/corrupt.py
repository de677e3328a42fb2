"""Corrupts images at five levels: noise, blur, loss of resolution, JPEG, brightness, contrast and gamma.

Kinds and levels are those of MedMNIST-C for chest radiographs (Di Salvo et al. 2024, https://arxiv.org/abs/2406.17536;
francescodisalvo05/medmnistc-api at b6dee0e, corruptions/registry.py), but for two things. Its images have a side of 224
pixels; blur, pixels and the grain of noise grow with larger images here, because a model that reduces its images would
not see them. And its Gaussian blur is given by the size of a kernel; the standard deviations here are those that OpenCV
takes for these sizes.

Axes: H W height, width, C channels. Values are in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVELS = 5
SIDE_PX = 224
"""The shorter side of the images for which the levels are given."""
Corrupt = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
"""(image [H, W, C], severity, random numbers) -> image [H, W, C]; what is outside [0, 1] is clipped afterwards."""


@dataclass(frozen=True)
class Corruption:
    """severities: of the levels 1 to LEVELS."""

    corrupt: Corrupt
    severities: tuple[float, float, float, float, float]


def corrupt(pixels: np.ndarray, name: str, level: int, rng: np.random.Generator) -> np.ndarray:
    """The same shape and type. pixels: uint8 or uint16, [H, W] or [H, W, 3]. name: a key of CORRUPTIONS. level: from 1
    to LEVELS."""
    assert pixels.dtype in (np.uint8, np.uint16) and pixels.ndim in (2, 3), (pixels.dtype, pixels.shape)
    largest = np.iinfo(pixels.dtype).max
    kind = CORRUPTIONS[name]
    image_HWC = pixels.reshape(*pixels.shape[:2], -1).astype(np.float64) / largest
    changed_HWC = kind.corrupt(image_HWC, kind.severities[level - 1], rng)
    return (changed_HWC.clip(0, 1) * largest + 0.5).astype(pixels.dtype).reshape(pixels.shape)


def _measure_scale(image_HWC: np.ndarray) -> float:
    """The shorter side in units of SIDE_PX."""
    return min(image_HWC.shape[:2]) / SIDE_PX


def _draw_grains(image_HWC: np.ndarray, draw: Callable[[tuple[int, ...]], np.ndarray]) -> np.ndarray:
    """Random numbers [H, W, C] that are equal within a grain: a square of as many pixels as the image is larger than
    SIDE_PX."""
    height, width, channels = image_HWC.shape
    grain = max(1, round(_measure_scale(image_HWC)))
    numbers = draw((-(-height // grain), -(-width // grain), channels))
    return numbers.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width]


def _add_gaussian_noise(image_HWC: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return image_HWC + sigma * _draw_grains(image_HWC, rng.standard_normal)


def _add_speckle_noise(image_HWC: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return image_HWC * (1 + sigma * _draw_grains(image_HWC, rng.standard_normal))


def _add_impulse_noise(image_HWC: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Salt and pepper, equally often."""
    drawn_HWC = _draw_grains(image_HWC, rng.random)
    return np.where(drawn_HWC < share / 2, 0.0, np.where(drawn_HWC < share, 1.0, image_HWC))


def _blur(image_HWC: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    sigma_px = sigma * _measure_scale(image_HWC)
    blurred: np.ndarray = gaussian_filter(image_HWC, (sigma_px, sigma_px, 0))
    return blurred


def _pixelate(image_HWC: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Means of squares: the shorter side has `factor` x SIDE_PX of them, or fewer for smaller images."""
    height, width, _ = image_HWC.shape
    num_squares = max(1, round(factor * min(SIDE_PX, height, width)))
    edge = min(height, width) / num_squares
    rows_H, columns_W = ((np.arange(size) / edge).astype(int) for size in (height, width))
    square_HW = rows_H[:, None] * (columns_W[-1] + 1) + columns_W
    counts = np.bincount(square_HW.ravel())
    means = [np.bincount(square_HW.ravel(), channel.ravel()) / counts for channel in np.moveaxis(image_HWC, 2, 0)]
    return np.stack([mean[square_HW] for mean in means], axis=2)


def _compress(image_HWC: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """JPEG, in 8 bits."""
    from PIL import Image

    bytes_HWC = (image_HWC * 255 + 0.5).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(bytes_HWC if bytes_HWC.shape[2] == 3 else bytes_HWC[:, :, 0]).save(
        out, "JPEG", quality=int(quality)
    )
    with Image.open(io.BytesIO(out.getvalue())) as image:
        return np.asarray(image, np.float64).reshape(image_HWC.shape) / 255


def _scale_brightness(image_HWC: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    return image_HWC * factor


def _scale_contrast(image_HWC: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Around the mean grey value (of colours, by ITU-R 601)."""
    weights_C = np.array([0.299, 0.587, 0.114]) if image_HWC.shape[2] == 3 else np.ones(1)
    mean = float((image_HWC @ weights_C).mean())
    return mean + (image_HWC - mean) * factor


def _bend(image_HWC: np.ndarray, gamma: float, rng: np.random.Generator) -> np.ndarray:
    bent: np.ndarray = image_HWC**gamma
    return bent


CORRUPTIONS = {
    "gaussian_noise": Corruption(_add_gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "speckle_noise": Corruption(_add_speckle_noise, (0.05, 0.15, 0.20, 0.35, 0.45)),
    "impulse_noise": Corruption(_add_impulse_noise, (0.01, 0.03, 0.06, 0.09, 0.17)),
    "gaussian_blur": Corruption(_blur, (0.8, 1.1, 1.4, 1.7, 2.0)),
    "pixelate": Corruption(_pixelate, (0.30, 0.25, 0.20, 0.15, 0.10)),
    "jpeg": Corruption(_compress, (50, 30, 15, 10, 7)),
    "brightness_up": Corruption(_scale_brightness, (1.1, 1.2, 1.3, 1.4, 1.5)),
    "brightness_down": Corruption(_scale_brightness, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "contrast_up": Corruption(_scale_contrast, (1.1, 1.2, 1.3, 1.4, 1.6)),
    "contrast_down": Corruption(_scale_contrast, (0.9, 0.8, 0.7, 0.6, 0.4)),
    "gamma_up": Corruption(_bend, (1.1, 1.2, 1.3, 1.4, 1.6)),
    "gamma_down": Corruption(_bend, (0.9, 0.8, 0.7, 0.6, 0.4)),
}
