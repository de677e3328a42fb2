"""Random views of an image or volume: cut, resized, mirrored, and changed in intensity.

Pixels are [C, *size], normalised, in 2D and 3D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, field_validator
from torch.nn.functional import interpolate

from medvlm.core.config import Config

if TYPE_CHECKING:
    import numpy as np

Share = Annotated[float, Field(gt=0, le=1)]


class Changes(Config):
    """What is changed in a view after it is cut."""

    flip: bool = True
    """Mirrors half of the views left to right, and volumes along every axis."""
    gain: float = Field(0.0, ge=0, lt=1)
    """Multiplies the contrast around the mean by a factor within 1 +- this."""
    brightness: float = Field(0.0, ge=0)
    """Adds up to plus or minus this, in units of the normalised pixels."""
    blur: float = Field(0.0, ge=0, le=1)
    """Share of the views that a Gaussian blurs, of 0.1 to 2 pixels."""
    noise: float = Field(0.0, ge=0)
    """Standard deviation of normal noise, in units of the normalised pixels."""


class Cropped(Config):
    """Base of settings with a random crop."""

    crop: tuple[Share, Share] = (0.2, 1.0)
    """[low, high]: a view shows a random share of the area or volume."""
    changes: Changes = Changes()

    @field_validator("crop")
    @classmethod
    def _shares_are_in_order(cls, crop: tuple[float, float]) -> tuple[float, float]:
        return require_order(crop)


def require_order(crop: tuple[float, float]) -> tuple[float, float]:
    if crop[0] > crop[1]:
        raise ValueError(f"expected two shares in order, e.g. [0.2, 1.0], found {list(crop)}")
    return crop


def make_view(
    pixels: torch.Tensor,
    size: Sequence[int],
    crop: tuple[float, float],
    changes: Changes,
    rng: np.random.Generator,
) -> torch.Tensor:
    """A random part of the pixels, resized to `size` and changed."""
    starts, sides = draw_box(tuple(pixels.shape[1:]), crop, rng)
    places = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return change(resize(pixels[(slice(None), *places)], tuple(size)), changes, rng)


def draw_box(
    size: tuple[int, ...], crop: tuple[float, float], rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Starts and sides of a box with a share of the volume within `crop`. Its sides differ by a factor of up to 4/3 in
    proportion to those of the whole (torchvision's RandomResizedCrop has the same share and factor)."""
    share = rng.uniform(*crop) ** (1 / len(size))
    stretch = rng.uniform(-0.5, 0.5, len(size)) * math.log(4 / 3)
    factors = [math.exp(s - float(stretch.mean())) for s in stretch]
    sides = tuple(max(1, min(n, round(n * share * f))) for n, f in zip(size, factors, strict=True))
    starts = tuple(int(rng.integers(0, n - side + 1)) for n, side in zip(size, sides, strict=True))
    return starts, sides


def resize(pixels: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Antialiased: bicubic in 2D, linear along each axis in 3D."""
    if tuple(pixels.shape[1:]) == size:
        return pixels
    if len(size) == 2:
        return interpolate(pixels[None], size=size, mode="bicubic", antialias=True)[0]
    depth, height, width = size
    plane = interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    flat = plane.flatten(2)[:, None]
    deep = interpolate(flat, size=(depth, height * width), mode="bilinear", antialias=True)
    return deep[:, 0].unflatten(2, (height, width))


def change(view: torch.Tensor, changes: Changes, rng: np.random.Generator) -> torch.Tensor:
    axes = view.ndim - 1
    # All of them are drawn always, so that one option does not change the random numbers of another.
    mirrored, gain, brightness = rng.random(axes), rng.uniform(-1, 1), rng.uniform(-1, 1)
    blurred, sigma = rng.random(), rng.uniform(0.1, 2)
    if changes.flip:
        among = range(axes) if axes == 3 else range(axes - 1, axes)
        view = view.flip([1 + axis for axis in among if mirrored[axis] < 0.5])
    if changes.gain or changes.brightness:
        mean = view.mean()
        view = (view - mean) * (1 + gain * changes.gain) + mean + brightness * changes.brightness
    if blurred < changes.blur:
        view = blur(view, sigma)
    if changes.noise:
        view = view + torch.from_numpy(rng.normal(0, changes.noise, tuple(view.shape))).to(view)
    return view.contiguous()


def blur(view: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian of `sigma` pixels along every axis; edges are repeated."""
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(view)
    for axis in range(1, view.ndim):
        last = view.movedim(axis, -1)
        flat = torch.nn.functional.pad(last.reshape(1, -1, last.shape[-1]), (reach, reach), mode="replicate")
        smooth = torch.nn.functional.conv1d(flat.transpose(0, 1), kernel[None, None])
        view = smooth.reshape(last.shape).movedim(-1, axis)
    return view
