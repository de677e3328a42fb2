"""Preprocessing is compared with transformers' own processors, and with closed forms where those have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError, ShapeError
from medvlm.core.sample import Medium
from medvlm.data.transforms import MediaTransform, perceived, processor_settings, to_display
from medvlm.io.images import encode_png

ODD_SIZES = [(97, 131), (64, 64), (31, 200), (203, 77), (40, 33)]
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def picture(size: tuple[int, ...], dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Blocks of random grey, so that there are edges for the resize to overshoot at."""
    blocks = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (*(-(-s // 7) for s in size[:2]), *size[2:]), endpoint=True)
    return blocks.repeat(7, 0).repeat(7, 1)[: size[0], : size[1]].astype(dtype)


def medium(size: tuple[int, ...]) -> Medium:
    return Medium("film", "0.png", size)


def transformed(array: np.ndarray, preprocess: Preprocess) -> torch.Tensor:
    return MediaTransform(preprocess)(array, "0.png", medium(array.shape[: len(preprocess.size)]))[0]


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("colours", [(), (3,)], ids=["grey", "rgb"])
@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("name", ["CLIPImageProcessor", "SiglipImageProcessor"])
def test_8_bit_films_become_exactly_what_the_exported_processor_makes_of_them(
    name: str, fit: Any, colours: tuple[int, ...], size: tuple[int, int], tmp_path: Path
) -> None:
    """Through the saved files and AutoImageProcessor, as a user loads them, from a PIL image as a user has it."""
    transformers = pytest.importorskip("transformers")
    preprocess = Preprocess(size=(64, 48) if fit == "squash" else (48, 64), fit=fit, **CLIP)
    getattr(transformers, name)(**processor_settings(preprocess)).save_pretrained(tmp_path)
    stock = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    array = picture((*size, *colours))
    expected = stock(Image.fromarray(array), return_tensors="pt")["pixel_values"][0]
    assert type(stock).__name__ == name
    assert torch.equal(transformed(array, preprocess), expected)


def test_bytes_of_a_png_give_the_same_as_its_pixels() -> None:
    preprocess, array = Preprocess(size=(32, 32)), picture((50, 70))
    pixels, _ = MediaTransform(preprocess)(encode_png(array), "0.png", medium((50, 70)))
    assert torch.equal(pixels, transformed(array, preprocess))


def test_grey_is_repeated_and_colour_is_mixed_down_as_pillow_does() -> None:
    grey, colour = picture((40, 40)), picture((40, 40, 3))
    as_three = transformed(grey, Preprocess(size=(20, 20)))
    assert torch.equal(as_three[0], as_three[1]) and torch.equal(as_three[0], as_three[2])
    one = Preprocess(size=(40, 40), channels=1, mean=(0.0,), std=(1.0,))
    expected = np.asarray(Image.fromarray(colour).convert("L"), np.float32) / 255
    assert np.allclose(transformed(colour, one)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_the_canvas_says_where_the_pixels_went(fit: Any) -> None:
    """A bright block is found again at the place that the map gives for its box."""
    array = np.zeros((120, 200), np.uint8)
    box = (80, 40, 120, 90)
    array[40:90, 80:120] = 255
    pixels, canvas = MediaTransform(Preprocess(size=(60, 60), fit=fit))(array, "0.png", medium((120, 200)))
    ys, xs = torch.nonzero(pixels[0] > 0, as_tuple=True)
    assert canvas.to_canvas(box) == pytest.approx([float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)], abs=0.5)


def test_16_bit_films_keep_their_depth() -> None:
    """A ramp of 1024 levels in the lowest 2 % of the range: 8 bits would leave 4 of them."""
    ramp = np.arange(1024, dtype=np.uint16).repeat(8).reshape(128, 64)
    pixels = transformed(ramp, Preprocess(size=(128, 64), channels=1, mean=(0.0,), std=(1.0,)))
    assert len(pixels.unique()) == 1024
    windowed = transformed(ramp, Preprocess(size=(128, 64), channels=1, mean=(0.0,), std=(1.0,), window=(100, 900)))
    assert windowed.min() == 0 and windowed.max() == 1
    assert windowed.flatten()[8 * 500] == pytest.approx((500 - 100) / 800)


def test_a_displayed_16_bit_film_gives_the_stock_processor_nearly_the_same() -> None:
    """Within the rounding to 8 bits: before the resize, between its axes and after it."""
    transformers = pytest.importorskip("transformers")
    preprocess = Preprocess(size=(48, 48), mean=(0.0,) * 3, std=(1.0,) * 3, window=(1000.0, 3000.0))
    film = picture((97, 131), np.uint16) // 16
    stock = transformers.CLIPImageProcessor(**processor_settings(preprocess))
    shown = stock(Image.fromarray(to_display(film, preprocess)), return_tensors="pt")["pixel_values"][0]
    assert (shown - transformed(film, preprocess)).abs().max() <= 1.5 / 255


def test_what_is_perceived_can_be_looked_at() -> None:
    preprocess, film = Preprocess(size=(50, 70), **CLIP), picture((50, 70))
    assert np.array_equal(perceived(transformed(film, preprocess), preprocess), film)
    colour = picture((50, 70, 3))
    assert np.array_equal(perceived(transformed(colour, preprocess), preprocess), colour)


def test_volumes_are_windowed_and_enlarged_as_torch_does() -> None:
    volume = np.random.default_rng(0).normal(0, 300, (6, 20, 24)).astype(np.float32)
    preprocess = Preprocess(size=(12, 30, 36), channels=1, mean=(0.5,), std=(0.25,), window=(-160, 240))
    scaled = torch.from_numpy(np.clip((volume + 160) / 400, 0, 1))
    expected = torch.nn.functional.interpolate(scaled[None, None], size=(12, 30, 36), mode="trilinear")[0]
    assert torch.allclose(transformed(volume, preprocess), (expected - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize("axis", range(3))
def test_a_thin_slice_is_dimmed_and_not_skipped_when_a_volume_shrinks(axis: int) -> None:
    """One bright plane of 32, shrunk to 8 along its normal: its brightness must survive wherever it lies."""
    sums = []
    for place in range(8, 24):
        volume = np.zeros((32, 32, 32), np.float32)
        volume[(slice(None),) * axis + (place,)] = 1
        pixels = transformed(volume, Preprocess(size=(8, 8, 8), channels=1, mean=(0.0,), std=(1.0,), window=(0, 1)))
        sums.append(float(pixels.mean()) * 8)
    assert sums == pytest.approx([8 / 32] * 16, rel=0.05)


def test_what_cannot_be_scaled_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"int16 intensities .* preprocess\.window"):
        transformed(np.zeros((4, 8, 8), np.int16), Preprocess(size=(4, 8, 8), channels=1, mean=(0.5,), std=(0.5,)))
    broken = np.full((8, 8), np.nan, np.float32)
    with pytest.raises(DataError, match="NaN"):
        transformed(broken, Preprocess(size=(8, 8), window=(0, 1)))
    with pytest.raises(DataError, match=r"0\.png: holds an array of shape \(9, 8\), but the sample says \(8, 8\)"):
        MediaTransform(Preprocess(size=(8, 8)))(np.zeros((9, 8), np.uint8), "0.png", medium((8, 8)))


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ShapeError, match="fit: squash"):
        MediaTransform(Preprocess(size=(8, 8, 8), fit="crop", channels=1, mean=(0.5,), std=(0.5,)))
    with pytest.raises(ShapeError, match=r"channels is 1 with 3 values of mean"):
        MediaTransform(Preprocess(size=(8, 8), channels=1))
    with pytest.raises(ShapeError, match="no stock image processor takes volumes"):
        processor_settings(Preprocess(size=(8, 8, 8), channels=1, mean=(0.5,), std=(0.5,)))
