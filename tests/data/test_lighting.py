"""Changes of intensities against MONAI, torchvision and their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.sample import Medium, Sample
from medvlm.data.augment import Augment, augment
from medvlm.data.lighting import DEGREE, Light, change_intensities, draw_bias, make_bias_field
from medvlm.data.order import draw

SIZE = (40, 50)


def changed(array: np.ndarray, axes: int = 2, **light: Any) -> np.ndarray:
    return change_intensities(array, axes, Light(**light), np.random.default_rng(0).standard_normal)


def pixels(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape or SIZE, dtype)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_bias_field_is_numpys_and_for_volumes_monais(axes: int) -> None:
    from monai.transforms import RandBiasField

    shape = SIZE if axes == 2 else (6, *SIZE)
    coefficients = draw_bias(0.3, axes, np.random.default_rng(1).uniform)
    degrees = np.indices(coefficients.shape).sum(axis=0)
    assert not coefficients[(degrees == 0) | (degrees > DEGREE)].any() and 0.1 < np.abs(coefficients).max() <= 0.3
    if axes == 2:
        y, x = (np.linspace(-1, 1, length) for length in shape)
        exponent = np.polynomial.legendre.leggrid2d(y, x, coefficients)
    else:
        listed = [coefficients[at] for at in np.ndindex(coefficients.shape) if sum(at) <= DEGREE]
        exponent = RandBiasField(degree=DEGREE)._generate_random_field(shape, DEGREE, listed)
    np.testing.assert_allclose(make_bias_field(shape, coefficients), np.exp(exponent), rtol=1e-5)


def test_a_blur_is_torchvisions_in_the_middle() -> None:
    from torchvision.transforms.v2.functional import gaussian_blur

    array = np.random.default_rng(0).normal(size=(40, 50, 3)).astype(np.float32)
    theirs = gaussian_blur(torch.from_numpy(array).permute(2, 0, 1), [13, 13], [1.5, 1.5]).permute(1, 2, 0)
    found = changed(array, blur_px=1.5)
    np.testing.assert_allclose(found[8:-8, 8:-8], theirs[8:-8, 8:-8], atol=2e-3)
    assert np.array_equal(changed(array[..., 0], blur_px=1.5), found[..., 0]), "colours are not mixed"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gamma_is_a_power_of_the_share_of_the_full_range(dtype: Any, gamma: float) -> None:
    array, full = pixels(dtype=dtype), np.iinfo(dtype).max
    np.testing.assert_allclose(changed(array, gamma=gamma), np.round((array / full) ** gamma * full), atol=1)
    assert changed(array, gamma=gamma).dtype == dtype


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_types_without_a_full_range_keep_their_units(dtype: Any) -> None:
    """The range of a CT is that of its own values; what is outside of it is not cut off."""
    array = np.linspace(-1000, 1000, 2000).reshape(40, 50).astype(dtype)
    array[0, 0] = 3000
    low, high = np.percentile(array, [0.5, 99.5])
    lit = changed(array, brightness=0.1)
    assert lit.dtype == dtype
    np.testing.assert_allclose(lit, array + 0.1 * (high - low), atol=1)
    np.testing.assert_allclose(changed(array, gain=0.1), low + 1.1 * (array - low), atol=1)
    darker = changed(array, gamma=2.0)
    inside = (array >= low) & (array <= high)
    np.testing.assert_allclose(
        darker[inside], low + ((array[inside] - low) / (high - low)) ** 2 * (high - low), atol=1.5
    )
    np.testing.assert_allclose(changed(array), array, atol=1e-3)


def test_drawn_changes_stay_within_their_limits() -> None:
    volume = np.random.default_rng(0).normal(100, 20, (4, *SIZE)).astype(np.float32)
    sample = Sample("k", "s", "train", (Medium("mr", "0.npy", volume.shape, unit="raw"),))
    config = Augment(gamma=(0.5, 2.0), bias_field=0.2, blur_px=1.0, gain=0.2, noise=0.01)
    made = [augment(volume, sample, config, draw(seed))[0] for seed in range(8)]
    assert all(np.isfinite(each).all() and each.dtype == np.float32 for each in made)
    assert len({each.tobytes() for each in made}) == 8
    assert np.array_equal(made[0], augment(volume, sample, config, draw(0))[0])
    spread = [each.std() for each in made]
    assert max(spread) < 2 * volume.std()


def test_gammas_are_spread_evenly_over_the_powers() -> None:
    array, sample = np.full(SIZE, 64, np.uint8), Sample("k", "s", "train", (Medium("film", "0.png", SIZE),))
    config = Augment(gamma=(0.5, 2.0))
    powers = [
        np.log(augment(array, sample, config, draw(seed))[0][0, 0] / 255) / np.log(64 / 255) for seed in range(200)
    ]
    assert 0.48 < min(powers) < 0.55 and 1.85 < max(powers) < 2.05
    assert np.mean(np.log(powers)) == pytest.approx(0, abs=0.08)
