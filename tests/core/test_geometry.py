"""Boxes follow the pixels: the maps are compared with numpy doing the same to a painted image."""

from __future__ import annotations

import numpy as np
import pytest

from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas, crop, flip, identity, resize, rot90

SIZE = (40, 60)
BOX = (10.0, 5.0, 25.0, 30.0)


def painted() -> np.ndarray:
    image = np.zeros(SIZE, np.uint8)
    image[5:30, 10:25] = 1
    return image


def found(image: np.ndarray) -> tuple[float, float, float, float]:
    ys, xs = np.nonzero(image)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


@pytest.mark.parametrize("turns", range(-1, 5))
def test_a_box_turns_with_the_image(turns: int) -> None:
    turned = np.rot90(painted(), turns)
    canvas = rot90(SIZE, turns)
    assert canvas.size == turned.shape
    assert canvas.to_canvas(BOX) == found(turned)


def test_a_box_is_mirrored_with_the_image() -> None:
    assert flip(SIZE).to_canvas(BOX) == found(np.fliplr(painted()))


def test_a_chain_of_steps_is_one_map() -> None:
    """Crop, mirror, turn, then double the height and triple the width."""
    image = np.rot90(np.fliplr(painted()[4:38, 6:46]), 1)
    image = image.repeat(2, axis=0).repeat(3, axis=1)
    canvas = crop(SIZE, 4, 6, (34, 40)).then(flip((34, 40))).then(rot90((34, 40))).then(resize((40, 34), (80, 102)))
    assert canvas.size == image.shape
    assert canvas.to_canvas(BOX) == found(image)
    assert canvas.to_stored(canvas.to_canvas(BOX)) == BOX


def test_resizing_follows_the_axes_apart() -> None:
    canvas = resize((40, 60), (20, 120))
    assert canvas.to_canvas((10, 10, 20, 30)) == (20, 5, 40, 15)
    assert canvas.convert_spacing_mm((0.5, 0.7)) == pytest.approx((1.0, 0.35))


def test_spacing_follows_a_quarter_turn_and_a_volume() -> None:
    assert rot90(SIZE).convert_spacing_mm((0.5, 0.7)) == (0.7, 0.5)
    assert resize((30, 512, 512), (60, 128, 128)).convert_spacing_mm((5.0, 0.8, 0.8)) == pytest.approx((2.5, 3.2, 3.2))


def test_answers_are_shares_of_the_canvas() -> None:
    canvas = resize((96, 128), (64, 64))
    assert canvas.quantize_box((0, 0, 128, 96), (1000, 1000)) == (0, 0, 1000, 1000)
    assert canvas.quantize_box((32, 24, 64, 48), (1000, 1000)) == (250, 250, 500, 500)
    assert canvas.quantize_box((32, 24, 64, 48), (100, 100)) == (25, 25, 50, 50)


def test_a_box_that_leaves_by_more_than_half_is_dropped_and_otherwise_clipped() -> None:
    canvas = crop((40, 60), 0, 20, (40, 40))
    assert canvas.clip_box((10, 0, 30, 10)) == (0, 0, 10, 10)  # exactly half stays
    assert canvas.clip_box((9, 0, 30, 10)) is None
    assert canvas.quantize_box((9, 0, 30, 10), (1000, 1000)) is None
    assert canvas.clip_box((0, 0, 10, 10)) is None  # outside altogether


def test_a_thin_box_keeps_one_unit() -> None:
    assert identity((1000, 1000)).quantize_box((500, 0, 501, 1000), (100, 100)) == (50, 0, 51, 100)
    assert identity((1000, 1000)).quantize_box((999, 0, 1000, 1000), (100, 100)) == (99, 0, 100, 100)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9)])
def test_a_box_without_area_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(DataError, match="no area"):
        identity(SIZE).clip_box(box)


def test_the_map_is_what_a_squash_to_the_encoder_size_says() -> None:
    assert resize((96, 128), (64, 64)) == Canvas((64, 64), (64 / 96, 0.5), (0.0, 0.0))
