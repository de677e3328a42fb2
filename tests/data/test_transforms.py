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
from medvlm.data.transforms import MediaTransform, make_processor_settings, show_input, to_display
from medvlm.io.images import encode_png

ODD_SIZES = [(97, 131), (64, 64), (31, 200), (203, 77), (40, 33)]
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def picture(size: tuple[int, ...], dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Blocks of random grey, so that there are edges for the resize to overshoot at."""
    blocks = np.random.default_rng(seed).integers(
        0, np.iinfo(dtype).max, (*(-(-s // 7) for s in size[:2]), *size[2:]), endpoint=True
    )
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
    getattr(transformers, name)(**make_processor_settings(preprocess)).save_pretrained(tmp_path)
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
    assert canvas.to_canvas(box) == pytest.approx(
        [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)], abs=0.5
    )


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
    stock = transformers.CLIPImageProcessor(**make_processor_settings(preprocess))
    shown = stock(Image.fromarray(to_display(film, preprocess)), return_tensors="pt")["pixel_values"][0]
    assert (shown - transformed(film, preprocess)).abs().max() <= 1.5 / 255


def test_what_is_perceived_can_be_looked_at() -> None:
    preprocess, film = Preprocess(size=(50, 70), **CLIP), picture((50, 70))
    assert np.array_equal(show_input(transformed(film, preprocess), preprocess), film)
    colour = picture((50, 70, 3))
    assert np.array_equal(show_input(transformed(colour, preprocess), preprocess), colour)


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
    with pytest.raises(DataError, match=r"0\.png: an array of shape \(9, 8\), but the sample says \(8, 8\)"):
        MediaTransform(Preprocess(size=(8, 8)))(np.zeros((9, 8), np.uint8), "0.png", medium((8, 8)))


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ShapeError, match="fit: squash"):
        MediaTransform(Preprocess(size=(8, 8, 8), fit="crop", channels=1, mean=(0.5,), std=(0.5,)))
    with pytest.raises(ShapeError, match=r"channels is 1 with 3 values of mean"):
        MediaTransform(Preprocess(size=(8, 8), channels=1))
    with pytest.raises(ShapeError, match="stock image processors do not take volumes"):
        make_processor_settings(Preprocess(size=(8, 8, 8), channels=1, mean=(0.5,), std=(0.5,)))


# --- windows, percentiles, spacing ----------------------------------------------------------------------

PLAIN = {"mean": (0.0,), "std": (1.0,), "channels": 1}
CT = np.random.default_rng(0).normal(0, 400, (6, 20, 24)).astype(np.int16)
WINDOWS = ((-1000.0, 400.0), (-160.0, 240.0), (300.0, 2000.0))


@pytest.mark.parametrize(
    ("array", "size"), [(CT, (4, 10, 16)), (picture((50, 70), np.uint16), (20, 30))], ids=["volume", "film"]
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_window_is_the_channel_that_it_would_be_alone(
    array: np.ndarray, size: tuple[int, ...], count: int
) -> None:
    windows = WINDOWS[:count]
    together = transformed(
        array, Preprocess(size=size, channels=count, mean=(0.1, 0.2, 0.3)[:count], std=(0.5,) * count, windows=windows)
    )
    alone = [
        transformed(array, Preprocess(size=size, channels=1, mean=(0.1 * (i + 1),), std=(0.5,), window=w))[0]
        for i, w in enumerate(windows)
    ]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)


def test_percentiles_are_those_of_the_whole_volume_before_it_is_resized() -> None:
    volume = CT.astype(np.float32)
    volume[0] += 5000  # of one slice alone they would be others
    low, high = (
        sorted(volume.ravel())[28],
        sorted(volume.ravel())[-29],
    )  # 2880 values: the 29th from either end is at 1 %
    low, high = (
        low + 0.79 * (sorted(volume.ravel())[29] - low),
        high - 0.79 * (high - sorted(volume.ravel())[-30]),
    )  # 0.01 * 2879 = 28.79
    found = transformed(volume, Preprocess(size=(3, 10, 12), percentiles=(1, 99), **PLAIN))
    assert torch.allclose(
        found, transformed(volume, Preprocess(size=(3, 10, 12), window=(low, high), **PLAIN)), atol=1e-5
    )
    with pytest.raises(DataError, match="are equal"):
        transformed(np.zeros((4, 8, 8), np.int16), Preprocess(size=(4, 8, 8), percentiles=(1, 99), **PLAIN))


def spaced(array: np.ndarray, spacing_mm: tuple[float, ...] | None, preprocess: Preprocess) -> tuple[torch.Tensor, Any]:
    axes = len(preprocess.size)
    return MediaTransform(preprocess)(array, "0.npy", Medium("ct", "0.npy", array.shape[:axes], spacing_mm))


@pytest.mark.parametrize("size", [(20, 40, 40), (5, 12, 100), (64, 64, 64)])
def test_a_block_is_as_large_in_mm_as_it_was_and_where_the_canvas_says(size: tuple[int, ...]) -> None:
    """A block of 20 x 24 x 16 mm near the middle, stored at 4 x 0.8 x 1.6 mm and resampled to 2 x 2 x 2 mm, then cut or
    filled up."""
    stored, spacing = np.zeros((16, 100, 50), np.float32), (4.0, 0.8, 1.6)
    first, last = (5, 36, 20), (10, 66, 30)
    stored[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = 1
    pixels, canvas = spaced(
        stored, spacing, Preprocess(size=size, spacing_mm=(2, 2, 2), fit="crop", window=(0, 1), **PLAIN)
    )
    assert pixels.shape == (1, *size)
    assert canvas.convert_spacing_mm(spacing) == pytest.approx((2, 2, 2), rel=0.01)
    for axis, (a, b, mm) in enumerate(zip(first, last, spacing, strict=True)):
        start, end = (x * canvas.scale[axis] + canvas.offset[axis] for x in (a, b))
        profile = pixels[0].amax(dim=[d for d in range(3) if d != axis])
        inside = max(min(end, size[axis]) - max(start, 0), 0)
        assert float(profile.sum()) == pytest.approx(inside, abs=1.1)  # resampled edges are half bright over a pixel
        if start >= 0 and end <= size[axis]:
            centre = float((profile * (torch.arange(size[axis]) + 0.5)).sum() / profile.sum())
            assert centre == pytest.approx((start + end) / 2, abs=0.05)
            assert float(profile.sum()) * 2 == pytest.approx((b - a) * mm, abs=2.2)


def test_at_its_own_spacing_nothing_is_interpolated_only_cut_and_filled_up() -> None:
    volume = np.random.default_rng(1).random((5, 8, 9)).astype(np.float32)
    pixels, canvas = spaced(
        volume, (2.0, 1.0, 1.0), Preprocess(size=(8, 4, 9), spacing_mm=(2, 1, 1), fit="crop", window=(0, 1), **PLAIN)
    )
    expected = np.zeros((8, 4, 9), np.float32)
    expected[1:6] = volume[:, 2:6]
    assert np.allclose(pixels[0], expected, atol=1e-6)
    assert (canvas.scale, canvas.offset) == ((1, 1, 1), (1, -2, 0))


def test_films_follow_a_spacing_too_and_their_boxes_with_them() -> None:
    """Stored at 0.2 x 0.1 mm per pixel, shown at 0.2 x 0.2: a square of 8 mm is square."""
    film = np.zeros((60, 200), np.uint8)
    film[10:50, 60:140] = 255
    pixels, canvas = spaced(film, (0.2, 0.1), Preprocess(size=(80, 80), spacing_mm=(0.2, 0.2), fit="crop", **PLAIN))
    assert canvas.to_canvas((60, 10, 140, 50)) == (20, 20, 60, 60)
    assert pixels[0, 22:58, 22:58].min() > 0.99 and pixels[0, :18].max() == 0 and pixels[0, :, 62:].max() < 0.01
    assert (pixels[0] > 0.5).sum() == 40 * 40


def test_a_spacing_that_cannot_be_made_is_refused_with_the_remedy() -> None:
    wanted = Preprocess(size=(8, 8, 8), spacing_mm=(1, 1, 1), fit="crop", window=(0, 1), **PLAIN)
    with pytest.raises(DataError, match=r"has no spacing, which preprocess\.spacing_mm needs"):
        spaced(CT, None, wanted)
    with pytest.raises(DataError, match=r"more than 268,435,456 pixels"):
        spaced(CT, (100.0, 1000.0, 1000.0), wanted)


def test_frames_in_colour_are_a_volume_of_three_channels() -> None:
    frames = np.stack([picture((20, 30, 3), seed=i) for i in range(4)])
    pixels = MediaTransform(Preprocess(size=(4, 20, 30)))(frames, "0.npy", Medium("video", "0.npy", (4, 20, 30)))[0]
    assert torch.allclose(pixels, (torch.from_numpy(frames).permute(3, 0, 1, 2) / 255 - 0.5) / 0.5, atol=1e-6)
    grey = MediaTransform(Preprocess(size=(4, 20, 30), **PLAIN))(
        frames, "0.npy", Medium("video", "0.npy", (4, 20, 30))
    )[0]
    assert np.allclose(grey[0, 1], np.asarray(Image.fromarray(frames[1]).convert("L")) / 255, atol=1e-6)
    with pytest.raises(DataError, match=r"is in colour, but preprocess\.windows is for grey"):
        MediaTransform(Preprocess(size=(4, 20, 30), windows=WINDOWS))(
            frames, "0.npy", Medium("video", "0.npy", (4, 20, 30))
        )


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_a_picture_is_a_volume_of_equal_slices_for_an_encoder_of_volumes(shape: tuple[int, ...]) -> None:
    """M3Ret: one encoder for pictures, frames and volumes."""
    film, medium = picture(shape), Medium("film", "0.png", (20, 30), (0.1, 0.1))
    pixels, canvas = MediaTransform(Preprocess(size=(4, 10, 15)))(film, "0.png", medium)
    planes = torch.from_numpy(film.reshape(20, 30, -1)).permute(2, 0, 1).float() / 255
    small = torch.nn.functional.interpolate(planes[None], size=(10, 15), mode="bilinear", antialias=True)[0]
    assert pixels.shape == (3, 4, 10, 15) and torch.equal(pixels, pixels[:, :1].expand_as(pixels))
    assert torch.allclose(pixels[:, 0], ((small - 0.5) / 0.5).expand(3, -1, -1), atol=1e-5)
    assert canvas.to_canvas((10, 10, 20, 20)) == (5, 5, 10, 10)
    with pytest.raises(DataError, match=r"0.png: a picture has no depth in mm, which preprocess.spacing_mm needs"):
        MediaTransform(Preprocess(size=(4, 10, 15), fit="crop", spacing_mm=(1, 1, 1)))(film, "0.png", medium)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"windows": WINDOWS[:2]}, "channels is 3 with 3 values of mean and 3 of std; expected 2"),
        ({"windows": WINDOWS, "window": (0, 1)}, "more than one of window, windows and percentiles"),
        ({"percentiles": (1, 99), "window": (0, 1)}, "more than one of window, windows and percentiles"),
        ({"window": (5, 5)}, "not below the second"),
        ({"windows": ((0, 1), (2, 1), (0, 1))}, "not below the second"),
        ({"percentiles": (99, 1)}, "not below the second"),
        ({"percentiles": (0, 101)}, "outside of 0 to 100"),
        ({"spacing_mm": (1, 1)}, "fit: squash; expected a spacing for each axis of size, and fit: crop"),
        ({"spacing_mm": (1, 1, 1), "fit": "crop"}, "a spacing for each axis"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        MediaTransform(Preprocess(size=(8, 8), **settings))


@pytest.mark.parametrize(
    "settings",
    [{"windows": WINDOWS}, {"percentiles": (1, 99)}, {"spacing_mm": (1, 1), "fit": "crop"}],
    ids=lambda s: next(iter(s)),
)
def test_what_a_stock_processor_cannot_do_is_not_exported_as_if_it_could(settings: dict[str, Any]) -> None:
    from medvlm.recipe.schema import Model
    from medvlm.recipe.targets import resolve
    from tests.export.conftest import recipe_of
    from tests.tiny_run import TOWER

    (name, *_), preprocess = settings, Preprocess(size=(32, 32), **settings)
    with pytest.raises(ShapeError, match=rf"preprocess\.{name} is set: .*; use export\.target: custom"):
        make_processor_settings(preprocess)
    model = Model.model_validate({"encoders": {"film": {**TOWER, "preprocess": preprocess.model_dump()}}})
    stages = recipe_of({}, None).stages
    assert f"encoders.film.preprocess.{name} is set" in resolve("stock", model, stages)[2]


def test_every_setting_is_part_of_the_recipes_hash() -> None:
    from medvlm.recipe.load import load

    recipe, place = Path(__file__).parents[2] / "recipes" / "phantom_3d.yaml", "model.encoders.volume.preprocess"
    changes = [
        [],
        [f"{place}.window=[-1000, 401]"],
        [f"{place}.window=null", f"{place}.windows=[[-1000, 400]]"],
        [f"{place}.window=null", f"{place}.percentiles=[1, 99]"],
        [f"{place}.spacing_mm=[3, 2, 2]", f"{place}.fit=crop"],
        [f"{place}.spacing_mm=[3, 2, 2.5]", f"{place}.fit=crop"],
    ]
    assert len({load(recipe, change).recipe_hash for change in changes}) == len(changes)


def test_windows_are_shown_as_colours_or_the_first_of_them() -> None:
    for count in (2, 3):
        preprocess = Preprocess(
            size=(20, 24), channels=count, mean=(0.0,) * count, std=(1.0,) * count, windows=WINDOWS[:count]
        )
        shown = show_input(transformed(CT[0], preprocess), preprocess)
        assert shown.shape == ((20, 24, 3) if count == 3 else (20, 24))
        first = (np.clip((CT[0].astype(np.float32) + 1000) / 1400, 0, 1) * 255 + 0.5).astype(np.uint8)
        assert np.abs((shown[..., 0] if count == 3 else shown).astype(int) - first).max() <= 1


# --- tiles -------------------------------------------------------------------------------------------


def test_a_tiled_film_is_the_whole_of_it_and_then_its_tiles_row_by_row() -> None:
    array = picture((80, 120))
    pixels, canvas = MediaTransform(Preprocess(size=(16, 20), tiles=(2, 3)))(array, "0.png", medium((80, 120)))
    whole, own = MediaTransform(Preprocess(size=(16, 20)))(array, "0.png", medium((80, 120)))
    large = transformed(array, Preprocess(size=(32, 60)))
    assert pixels.shape == Preprocess(size=(16, 20), tiles=(2, 3)).shape == (3, 7, 16, 20)
    assert torch.equal(pixels[:, 0], whole) and canvas == own, "boxes lie on the whole"
    for row in range(2):
        for column in range(3):
            assert torch.equal(
                pixels[:, 1 + 3 * row + column], large[:, 16 * row : 16 * (row + 1), 20 * column : 20 * (column + 1)]
            )
    assert np.array_equal(
        show_input(pixels, Preprocess(size=(16, 20), tiles=(2, 3))), show_input(whole, Preprocess(size=(16, 20)))
    )


def test_tiles_of_a_spacing_show_the_same_millimetres_as_the_whole() -> None:
    film = Medium("film", "0.png", (80, 80), spacing_mm=(1.0, 1.0))
    pixels, _ = MediaTransform(Preprocess(size=(20, 20), fit="crop", spacing_mm=(2.0, 2.0), tiles=(2, 2)))(
        picture((80, 80)), "0.png", film
    )
    fine, _ = MediaTransform(Preprocess(size=(40, 40), fit="crop", spacing_mm=(1.0, 1.0)))(
        picture((80, 80)), "0.png", film
    )
    assert torch.equal(pixels[:, 4], fine[:, 20:, 20:])


@pytest.mark.parametrize(("settings", "message"), [
    ({"size": (4, 16, 16), "tiles": (2, 2)}, "both tiles and stack, or one of them for volumes"),
    ({"size": (16, 16), "tiles": (2, 2), "stack": 2}, "both tiles and stack, or one of them for volumes"),
    ({"size": (16, 16), "tiles": (1, 2), "fit": "crop"}, "would take the tiles from another part of the film"),
])  # fmt: skip
def test_tiles_that_cannot_be_made_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        MediaTransform(Preprocess(**settings))
