"""Masks go where the pixels go: the nearest stored pixel, to the pixel, through every preprocessing."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium
from medvlm.data import transforms
from medvlm.data.steps import nearest, place_mask
from medvlm.data.transforms import MediaTransform

GREY: dict[str, Any] = {"channels": 1, "mean": (0.0,), "std": (1.0,), "window": (0.0, 255.0)}


def resize_by_nearest(pixels: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Of the last axes; the centre of each new pixel as a fraction, which is exact."""
    for axis, new in enumerate(size, pixels.ndim - len(size)):
        ratio = Fraction(pixels.shape[axis], new)
        at = [math.floor((i + Fraction(1, 2)) * ratio) for i in range(new)]
        pixels = pixels.index_select(axis, torch.tensor(at))
    return pixels


@pytest.fixture
def is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are resized as masks are."""
    monkeypatch.setattr(transforms, "_resize_bicubic", resize_by_nearest)
    monkeypatch.setattr(transforms, "_resize_volume", resize_by_nearest)


def random_case(rng: np.random.Generator) -> tuple[Preprocess, Medium]:
    """A film or a volume, squashed, cropped or resampled to a spacing, which cuts some axes and fills others up."""
    axes = int(rng.integers(2, 4))
    low, high = (20, 90) if axes == 2 else (4, 30)
    stored, size = (tuple(int(n) for n in rng.integers(low, high, axes)) for _ in range(2))
    spacing_mm = tuple(rng.uniform(0.4, 3.0, axes).tolist())
    how = rng.choice(["squash", "spacing"] if axes == 3 else ["squash", "spacing", "crop"])
    settings: dict[str, Any] = {"fit": "squash" if how == "squash" else "crop"}
    if how == "spacing":
        settings["spacing_mm"] = tuple(rng.uniform(0.4, 3.0, axes).tolist())
    return Preprocess(size=size, **settings, **GREY), Medium("scan", "0.png", stored, spacing_mm)


@pytest.mark.usefixtures("is_nearest")
def test_a_mask_painted_as_pixels_goes_the_same_way_through_600_preprocessings() -> None:
    rng = np.random.default_rng(0)
    kept, filled = 0, 0
    for _ in range(600):
        preprocess, medium = random_case(rng)
        labels = rng.integers(1, 256, medium.size, np.uint8)
        pixels, canvas = MediaTransform(preprocess)(labels, "0.png", medium)
        placed = place_mask(labels, "0.mask.png", medium, preprocess)
        assert placed.dtype == np.uint8 and placed.shape == preprocess.size
        assert np.array_equal(placed, (pixels[0].numpy() * 255).round().astype(np.uint8)), (preprocess, medium)
        kept, filled = kept + bool((placed > 0).all()), filled + bool((placed == 0).any())
        check_by_canvas(labels, placed, canvas.scale, canvas.offset)
    assert kept > 100 and filled > 100


def check_by_canvas(
    labels: np.ndarray, placed: np.ndarray, scale: tuple[float, ...], offset: tuple[float, ...]
) -> None:
    """A pixel of the canvas shows the stored pixel in which its centre lies, as the canvas has it for boxes."""
    found = labels
    for axis, side in enumerate(placed.shape):
        centres = (np.arange(side) + 0.5 - offset[axis]) / scale[axis]
        at = np.floor(centres).astype(int)
        sure = np.abs(centres - np.rint(centres)) > 1e-6  # between two pixels, either is right
        inside = (at >= 0) & (at < labels.shape[axis])
        found = found.take(np.where(inside, at, 0), axis)
        shape = [-1 if i == axis else 1 for i in range(labels.ndim)]
        found = np.where(inside.reshape(shape), found, 0)
        placed, found = placed.compress(sure, axis), found.compress(sure, axis)
    assert np.array_equal(found, placed)


def test_nearest_is_exact_where_a_centre_lies_between_two_pixels() -> None:
    assert nearest(6, 9).tolist() == [0, 1, 1, 2, 3, 3, 4, 5, 5]
    assert nearest(4, 2).tolist() == [1, 3]
    assert nearest(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_nearest_is_torchs_elsewhere() -> None:
    for stored in range(1, 60):
        for new in range(1, 60):
            ramp = torch.arange(stored, dtype=torch.float32)[None, None]
            theirs = interpolate(ramp, size=new, mode="nearest-exact")[0, 0].int().numpy()
            between = ((2 * np.arange(new) + 1) * stored) % (2 * new) == 0
            assert np.array_equal(nearest(stored, new)[~between], theirs[~between]), (stored, new)


def test_masks_that_overlap_are_placed_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    preprocess, medium = Preprocess(size=(30, 20), fit="crop"), Medium("film", "0.png", (50, 90))
    planes = rng.integers(0, 2, (3, 50, 90)).astype(bool)
    placed = place_mask(planes, "0.mask.npy", medium, preprocess)
    assert placed.dtype == bool and placed.shape == (3, 30, 20)
    for number in range(3):
        assert np.array_equal(placed[number], place_mask(planes[number], "0.mask.npy", medium, preprocess))


def test_the_mask_of_a_tiled_film_is_that_of_the_whole() -> None:
    labels, medium = np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8), Medium("film", "0.png", (64, 64))
    tiled, whole = (
        place_mask(labels, "0.mask.png", medium, Preprocess(size=(16, 16), **more)) for more in ({"tiles": (2, 2)}, {})
    )
    assert np.array_equal(tiled, whole)


@pytest.mark.parametrize("shape", [(40, 50), (50,), (2, 2, 50, 40)])
def test_a_mask_of_another_size_than_its_medium_is_refused(shape: tuple[int, ...]) -> None:
    preprocess, medium = Preprocess(size=(16, 16)), Medium("film", "0.png", (50, 40))
    with pytest.raises(DataError, match=r"0\.mask\.png: a mask of shape .*, but 0\.png has \(50, 40\)"):
        place_mask(np.zeros(shape, np.uint8), "0.mask.png", medium, preprocess)


def test_a_mask_of_a_picture_is_on_every_slice_for_an_encoder_of_volumes() -> None:
    rng = np.random.default_rng(0)
    mask, medium = rng.integers(0, 3, (2, 12, 9)), Medium("film", "0.png", (12, 9))
    flat = place_mask(mask, "m", medium, Preprocess(size=(8, 6), **GREY))
    deep = place_mask(mask, "m", medium, Preprocess(size=(3, 8, 6), **GREY))
    assert deep.shape == (2, 3, 8, 6) and (deep == flat[:, None]).all()
