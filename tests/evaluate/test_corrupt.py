"""Corruptions of images, against Pillow, torchvision and the definitions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from medvlm.evaluate.corrupt import CORRUPTIONS, LEVELS, corrupt

RNG = np.random.default_rng(0)
GREY = RNG.integers(40, 200, (60, 80)).astype(np.uint8)
COLOUR = RNG.integers(40, 200, (50, 70, 3)).astype(np.uint8)
DEEP = RNG.integers(10_000, 50_000, (60, 80)).astype(np.uint16)


def make(pixels: np.ndarray, name: str, level: int, seed: int = 0) -> np.ndarray:
    return corrupt(pixels, name, level, np.random.default_rng(seed))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("pixels", [GREY, COLOUR, DEEP, GREY[:1, :1]], ids=["grey", "colour", "16 bits", "a pixel"])
def test_the_shape_stays_and_equal_keys_give_equal_pixels(name: str, pixels: np.ndarray) -> None:
    for level in range(1, LEVELS + 1):
        made = make(pixels, name, level)
        assert made.shape == pixels.shape and made.dtype == pixels.dtype
        assert np.array_equal(made, make(pixels, name, level))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_level_changes_more(name: str) -> None:
    smooth = np.linspace(20, 230, 300 * 400).reshape(300, 400) + 10 * np.sin(np.arange(400) / 6)
    pixels = smooth.clip(0, 255).astype(np.uint8)
    changes = [np.abs(make(pixels, name, level).astype(int) - pixels).mean() for level in range(1, LEVELS + 1)]
    assert changes[0] > 0.02 and changes == sorted(changes) and changes[-1] > 1.5 * changes[0], changes


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_brightness_and_contrast_are_those_of_pillow(pixels: np.ndarray, way: str) -> None:
    image = Image.fromarray(pixels)
    for level in range(1, LEVELS + 1):
        for kind, enhancer in (("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast)):
            factor = CORRUPTIONS[f"{kind}_{way}"].severities[level - 1]
            theirs = np.asarray(enhancer(image).enhance(factor)).astype(int)  # which cuts off, with a whole mean
            assert np.abs(make(pixels, f"{kind}_{way}", level) - theirs).max() <= 1


def test_gamma_is_a_power_and_jpeg_that_of_pillow() -> None:
    assert np.array_equal(make(GREY, "gamma_up", 3), np.round((GREY / 255) ** 1.3 * 255).astype(np.uint8))
    out = io.BytesIO()
    Image.fromarray(COLOUR).save(out, "JPEG", quality=15)
    assert np.array_equal(make(COLOUR, "jpeg", 3), np.asarray(Image.open(out)))


def test_noise_has_the_deviation_and_the_share_of_its_level() -> None:
    flat = np.full((200, 200), 128, np.uint8)
    added = make(flat, "gaussian_noise", 2).astype(float) / 255 - 128 / 255
    assert added.std() == pytest.approx(0.08, rel=0.03) and added.mean() == pytest.approx(0, abs=0.002)
    speckle = make(flat, "speckle_noise", 2).astype(float) / 128 - 1
    assert speckle.std() == pytest.approx(0.15, rel=0.03)
    salted = make(flat, "impulse_noise", 5)
    assert (salted != 128).mean() == pytest.approx(0.17, abs=0.01)
    assert (salted == 255).mean() == pytest.approx((salted == 0).mean(), abs=0.01)


def test_levels_hold_for_large_images_after_they_are_reduced() -> None:
    """Four times as large, and reduced to 224 pixels by means: the noise of a small image."""
    large = np.full((896, 896), 128, np.uint8)
    reduced = make(large, "gaussian_noise", 2).reshape(224, 4, 224, 4).mean(axis=(1, 3))
    assert (reduced / 255).std() == pytest.approx(0.08, rel=0.03)
    squares = make(RNG.integers(0, 65535, (896, 896)).astype(np.uint16), "pixelate", 5)
    assert np.count_nonzero(np.diff(squares[0].astype(int))) + 1 == round(0.1 * 224)
    step = np.zeros((896, 896), np.uint8)
    step[:, 448:] = 255
    small = np.zeros((224, 224), np.uint8)
    small[:, 112:] = 255
    wide, narrow = (
        np.interp([64, 191], make(p, "gaussian_blur", 5)[0].astype(float), np.arange(len(p))) for p in (step, small)
    )
    assert np.diff(wide)[0] == pytest.approx(4 * np.diff(narrow)[0], rel=0.15)
