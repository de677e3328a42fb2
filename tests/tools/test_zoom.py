"""The zoom: which stored pixels are shown for a box that a model writes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas, crop, resize
from medvlm.core.sample import Medium, Sample, make_truth
from medvlm.io.images import encode_png
from medvlm.tasks._writing import Writing
from medvlm.tools._contract import Scene
from medvlm.tools.zoom import Config, use, widen, write_call
from tests.tools.no_expert import no_expert

SIZE = (160, 400)
PIXELS = np.arange(160 * 400, dtype=np.uint16).reshape(SIZE)
"""Each says where it is."""
SAMPLE = Sample("k", "s", "test", (Medium("film", "0.png", SIZE, (0.5, 0.5)),))


def scene(canvas: Canvas | None, writing: Writing = Writing(), **changed: Any) -> Scene:  # noqa: B008
    given = {"sample": SAMPLE, "files": {"0.png": encode_png(PIXELS)}, "first": 1}
    return Scene(find_canvas=lambda: canvas, boxes=writing, open_expert=no_expert, **{**given, **changed})


@pytest.mark.parametrize(
    ("writing", "asked"),
    [
        (Writing(), "[250, 100, 500, 600]"),
        (Writing(scale=100), "[25, 10, 50, 60]"),
        (Writing("bbox_2d_pixels"), '[{"bbox_2d": [16, 6, 32, 38], "label": "mark"}]'),
        (Writing("box_2d"), '[{"box_2d": [100, 250, 600, 500], "label": "mark"}]'),
        (Writing("loc"), "<loc0102><loc0256><loc0614><loc0512> mark"),
    ],
)
def test_the_stored_pixels_in_the_box_are_shown(writing: Writing, asked: str) -> None:
    """However the model writes boxes: x from 0.25 to 0.5 and y from 0.1 to 0.6 of the canvas."""
    shown = use(Config(kind="zoom", least_px=1), asked, scene(resize(SIZE, (64, 64)), writing))
    (medium,) = shown.media
    found = shown.files[medium.member]
    assert medium.size == found.shape and medium.spacing_mm == (0.5, 0.5) and medium.kind == "film"
    top, left = divmod(int(found[0, 0]), 400)
    bottom, right = divmod(int(found[-1, -1]), 400)
    np.testing.assert_allclose((left, top, right + 1, bottom + 1), (100, 16, 200, 96), atol=3)
    np.testing.assert_array_equal(found, PIXELS[top : bottom + 1, left : right + 1])


def test_a_crop_and_a_resize_of_the_canvas_are_undone() -> None:
    """The model sees the middle of the film: 160 x 160 from column 100, at 50 x 50."""
    canvas = crop(SIZE, 0, 100, (160, 160)).then(resize((160, 160), (50, 50)))
    shown = use(Config(kind="zoom", least_px=1), "[0, 500, 500, 1000]", scene(canvas))
    np.testing.assert_array_equal(shown.files[shown.media[0].member], PIXELS[80:160, 100:180])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 20, 20), (0, 0, 32, 32)),  # widened around (15, 15), within the image
        ((100, 90, 110, 150), (89, 90, 121, 150)),
        ((395, 155, 400, 160), (368, 128, 400, 160)),
        ((0, 0, 400, 160), (0, 0, 400, 160)),
    ],
)
def test_small_boxes_are_widened_around_their_centre(box: Any, expected: Any) -> None:
    assert widen(box, SIZE, 32) == expected


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("", "expected boxes, as in zoom [250, 250, 500, 500]"),
        ("the left lung", "expected boxes"),
        ("[1, 2, 3, 4], [5, 6, 7, 8]", "expected one box"),
        ("[500, 500, 400, 400]", "expected boxes"),
        ("[1100, 0, 1200, 100]", "outside"),
    ],
)
def test_other_calls_are_refused_with_what_is_expected(asked: str, why: str) -> None:
    with pytest.raises(DataError, match=why.replace("[", r"\[")):
        use(Config(kind="zoom"), asked, scene(resize(SIZE, (64, 64))))


def test_there_must_be_an_image_that_is_shown_as_stored() -> None:
    with pytest.raises(DataError, match="not shown as it is stored"):
        use(Config(kind="zoom"), "[0, 0, 500, 500]", scene(None))
    with pytest.raises(DataError, match="no image"):
        use(Config(kind="zoom"), "[0, 0, 500, 500]", scene(None, sample=Sample("k", "s", "test"), first=0))


def test_an_expert_zooms_to_the_box_of_a_truth() -> None:
    truth = write_call(Config(kind="zoom", word="look"), make_truth("boxes", boxes=((1, 2, 3, 4),), label="mark"))
    assert truth.answer == "look {boxes}" and truth.boxes == ((1, 2, 3, 4),)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="one box"):
        write_call(Config(kind="zoom"), make_truth("choice", "left", choices=("left", "right")))
