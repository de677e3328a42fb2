"""The striped mark of a phantom: found in a small image, told only in a large one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medvlm.archive.phantom.mark import WAYS, add_mark, find_box
from medvlm.archive.readers.phantom import Config, film_study
from medvlm.core.contracts import Preprocess
from medvlm.core.sample import Medium
from medvlm.data.transforms import MediaTransform


def see(pixels: np.ndarray) -> np.ndarray:
    """What an encoder of 64 x 64 sees, in grey levels."""
    transform = MediaTransform(Preprocess(size=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3))
    seen, _ = transform(pixels, "0.png", Medium("film", "0.png", pixels.shape))
    return seen[0].numpy() * 255


@pytest.mark.parametrize("at_mm", [(-65.0, -83.0), (63.3, -12.1), (70.0, 68.0)])
@pytest.mark.parametrize("phase", [0.0, 1.0, 2.5])
def test_at_64_pixels_the_two_ways_cannot_be_told_apart(at_mm: tuple[float, float], phase: float) -> None:
    film = film_study(Config(films=1, film_px=256), 0).files["0.png"]
    wide, high = (add_mark(film, way, at_mm, phase) for way in WAYS)
    difference = np.abs(see(wide) - see(high))
    assert difference.max() < 1.5 and difference.mean() < 0.02, "no more than rounding"
    x1, y1, x2, y2 = map(int, find_box(at_mm, 256))
    views = [pixels[y1:y2, x1:x2] for pixels in (wide, high)]
    assert np.abs(see(views[0]) - see(views[1])).max() > 80, "the view shows them"
    # The spot itself is seen: brighter than the lung.
    assert (see(wide) - see(film))[y1 // 4 : y2 // 4, x1 // 4 : x2 // 4].max() > 40


def test_what_is_asked_is_what_is_drawn() -> None:
    """The stripes of a horizontal mark change from row to row."""
    ways = Counter[str]()
    for index in range(40):
        study = film_study(Config(films=40, film_px=256, marks=True), index)
        asked, where = study.sample.questions
        x1, y1, x2, y2 = map(int, where.truth.boxes[0])  # type: ignore[attr-defined]
        middle = study.files["0.png"][y1 + 14 : y2 - 14, x1 + 14 : x2 - 14].astype(float)
        down, across = np.abs(np.diff(middle, axis=0)).mean(), np.abs(np.diff(middle, axis=1)).mean()
        assert asked.truth.answer == ("horizontal" if down > across else "vertical")
        ways[asked.truth.answer] += 1
    assert min(ways.values()) > 10


def test_other_phantoms_are_drawn_as_before() -> None:
    plain, marked = (film_study(Config(films=1, film_px=256, marks=m), 0) for m in (False, True))
    differs = plain.files["0.png"] != marked.files["0.png"]
    assert 500 < differs.sum() < 4000 and marked.sample.report == plain.sample.report
