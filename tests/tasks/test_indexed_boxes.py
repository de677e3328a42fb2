"""Boxes on the images of a sample, or on slices of a volume, by number: what is read, and where they are afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medvlm.core import geometry
from medvlm.core.errors import DataError
from medvlm.core.geometry import join_canvases
from medvlm.core.sample import Medium, Question, Sample
from medvlm.data.augment import Augment, augment
from medvlm.data.order import draw
from medvlm.tasks import indexed_boxes
from medvlm.tasks._writing import Writing
from medvlm.tasks.indexed_boxes import Config, Truth, follow, from_text, parse, place

MEDIA = (Medium("film", "0.png", (100, 200)), Medium("film", "1.png", (50, 50)))
CANVAS: Any = join_canvases([geometry.resize((100, 200), (10, 20)), geometry.resize((50, 50), (100, 100))])
PIXELS = Writing("bbox_2d_pixels")
FOUND = Truth(boxes=((20, 10, 40, 30), (10, 10, 20, 30)), numbers=(1, 2), label="mass")


def test_each_box_is_placed_on_the_canvas_of_its_own_image() -> None:
    placed: Any = place(FOUND, CANVAS, PIXELS)
    assert placed.boxes == ((2, 1, 4, 3), (20, 20, 40, 60)) and placed.numbers == (1, 2)
    assert placed.extents == ((20, 10), (100, 100))
    assert parse(placed.answer, placed) == [(1, (2, 1, 4, 3)), (2, (20, 20, 40, 60))]
    shares: Any = place(FOUND, CANVAS, Writing())
    assert shares.boxes == ((100, 100, 200, 300), (200, 200, 400, 600))
    assert shares.answer == "image 1: [100, 100, 200, 300]; image 2: [200, 200, 400, 600]"
    assert indexed_boxes.score(shares.answer, shares) == 1


@pytest.mark.parametrize(("slices", "seen"), [((), 3), ((0, 4, 8, 12), 3), ((5, 6), 2)])
def test_a_slice_has_the_number_under_which_it_is_seen(slices: tuple[int, ...], seen: int) -> None:
    """Of a volume that is resampled from 16 to 4 slices, or shown as pictures of some."""
    canvas = geometry.resize((16, 100, 200), (4, 10, 20))
    truth = Truth(boxes=((20, 10, 40, 30),), numbers=(10,), of="slice")
    if slices:
        canvas = geometry.Canvas((10, 20), (0.1, 0.1), (0.0, 0.0), slices=slices)
    placed = place(truth, canvas, PIXELS)
    assert placed.numbers == (seen,) and placed.answer.startswith(f"slice {seen}: ")
    stored = canvas.find_slice(seen - 1)
    assert stored is not None and canvas.see_slice(stored) == seen - 1
    assert canvas.find_slice(canvas.num_slices) is None and canvas.find_slice(-1) is None


def test_a_box_on_slices_that_are_seen_as_one_is_written_once() -> None:
    stack = Truth(boxes=((20, 10, 40, 30),) * 4, numbers=(9, 10, 11, 12), of="slice")
    placed: Any = place(stack, geometry.resize((16, 100, 200), (4, 10, 20)), PIXELS)
    assert placed.numbers == (3,) and indexed_boxes.is_formatted(placed.answer, placed)


def test_painted_slices_show_where_the_resampled_one_lies() -> None:
    canvas = geometry.resize((12, 8, 8), (6, 8, 8))
    volume = np.arange(12)
    for stored in range(12):
        seen = canvas.see_slice(stored)
        assert seen is not None and stored in volume.reshape(6, 2)[seen]


def test_only_boxes_of_the_first_image_follow_its_changes() -> None:
    flipped: Any = follow(FOUND, geometry.flip((100, 200)))
    assert flipped is not None and flipped.placed == ((1, (160, 10, 180, 30)), (2, (10, 10, 20, 30)))
    cut: Any = follow(FOUND, geometry.crop((100, 200), 50, 100, (50, 100)))
    assert cut is not None and cut.placed == ((2, (10, 10, 20, 30)),)
    assert follow(FOUND.keep([(1, (20, 10, 40, 30))]), geometry.crop((100, 200), 50, 100, (50, 100))) is None


def test_a_box_stays_on_its_slice_where_slices_are_cut_off() -> None:
    volume = np.zeros((16, 20, 20), np.uint8)
    volume[9, 5:12, 6:14] = 200
    truth = Truth(boxes=((6, 5, 14, 12),), numbers=(10,), of="slice")
    sample = Sample("k", "s", "train", (Medium("ct", "0.npy", volume.shape),), questions=(Question("?", truth, "t"),))
    numbers = set()
    for seed in range(20):
        cut, after, _ = augment(volume, sample, Augment(crop=(0.3, 0.6)), draw(seed))
        (question,) = after.questions
        (number,) = question.truth.numbers  # type: ignore[attr-defined]
        assert cut[number - 1].any()
        numbers.add(number)
    assert len(numbers) > 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("image 2: [1, 2, 3, 4]", [(2, (1, 2, 3, 4))]),
        ("Image #2 [1, 2, 3, 4], [5, 6, 7, 8]", [(2, (1, 2, 3, 4)), (2, (5, 6, 7, 8))]),
        ("image 2 [1, 2, 3, 4] and picture 3: (1, 2, 3, 4)", [(2, (1, 2, 3, 4)), (3, (1, 2, 3, 4))]),
        ('image 1: [{"bbox_2d": [1, 2, 3, 4], "label": "mass"}]', [(1, (1, 2, 3, 4))]),
        ("image 1: none; image 2: [1, 2, 3, 4]", [(2, (1, 2, 3, 4))]),
        ("none", []),
        ("There are none.", []),
        ("[1, 2, 3, 4]", None),
        ("[1, 2, 3, 4] in image 2: [1, 2, 3, 4]", None),
        ("image 2", None),
        ("no mass in image 2: [1, 2, 3, 4]", None),
        ("image 2: [1, 2,", None),
        ("image 2.5: [1, 2, 3, 4]", None),
    ],
)  # fmt: skip
def test_how_a_box_with_a_number_is_said(text: str, found: Any) -> None:
    assert parse(text, Truth()) == found


def test_what_does_not_fit_the_media_is_refused() -> None:
    indexed_boxes.check(FOUND, MEDIA)
    with pytest.raises(DataError, match="a box lies on image 3 of 2"):
        indexed_boxes.check(Truth(boxes=((1, 1, 9, 9),), numbers=(3,)), MEDIA)
    with pytest.raises(DataError, match="reaches beyond the image of 50 x 50 pixels"):
        indexed_boxes.check(Truth(boxes=((1, 1, 90, 9),), numbers=(2,)), MEDIA)
    with pytest.raises(DataError, match="a box lies on slice 3 of a medium with 0 slices"):
        indexed_boxes.check(Truth(boxes=((1, 1, 9, 9),), numbers=(3,), of="slice"), MEDIA)
    with pytest.raises(DataError, match="expected the number of an image, from 1, for each of 1 boxes"):
        Truth(boxes=((1, 1, 9, 9),), numbers=(0,))
    with pytest.raises(DataError, match="its boxes lie on stored slices"):
        place(Truth(boxes=((1, 1, 9, 9),), of="slice"), CANVAS, PIXELS)
    assert from_text("[1, 2, 3, 4]", Config(kind="indexed_boxes")) is None


def test_a_label_that_would_be_read_as_a_number_is_refused() -> None:
    for label, of in (("image 3", "image"), ("Figure 2, top", "image"), ("slice no. 4", "slice")):
        with pytest.raises(DataError, match="would be read as the number of an"):
            Truth(boxes=((0, 0, 9, 9),), label=label, of=of)
    assert Truth(boxes=((0, 0, 9, 9),), label="imaged lobe 3, slice", of="slice").label
