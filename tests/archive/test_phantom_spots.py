"""Radiographs of which one finding is marked: what is drawn is what is boxed, in the order in which it is marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medvlm.archive.phantom.spots import SPOTS_MM, draw_spots, draw_spots_film
from medvlm.archive.readers.phantom_spots import Config, list_content, make_study, read
from medvlm.core.content import Content
from medvlm.tasks._matching import iou


def make(number: int, **own: Any) -> list[Any]:
    config = Config(kind="phantom_spots", seed=3, films=number, **own)
    return [deferred.make() for deferred in read(config, None)]


@pytest.mark.parametrize("name", SPOTS_MM)
def test_an_opacity_lies_in_its_box_and_is_marked_before_the_mass(name: str) -> None:
    """Against the same film with an invisible one."""
    for seed in range(20):
        shown, hidden = (draw_spots_film(np.random.default_rng(seed), (name,), c, 64) for c in (60.0, 0.0))
        assert shown.boxes == hidden.boxes and len(shown.boxes) == 2
        rows, columns = np.nonzero(shown.pixels.astype(int) - hidden.pixels > 12)
        x1, y1, x2, y2 = shown.boxes[0]
        assert abs(columns.mean() + 0.5 - (x1 + x2) / 2) < 1 and abs(rows.mean() + 0.5 - (y1 + y2) / 2) < 1
        assert x1 - 1 <= columns.min() and columns.max() < x2 + 1 and y1 - 1 <= rows.min() and rows.max() < y2 + 1


def test_the_mass_is_plain_to_see_and_meets_no_opacity() -> None:
    for seed in range(60):
        film = draw_spots_film(np.random.default_rng(seed), tuple(SPOTS_MM), 2.0, 64)
        *spots, (x1, y1, x2, y2) = film.boxes
        inside = film.pixels[int(y1) : int(y2), int(x1) : int(x2)]
        assert inside.mean() > 1.5 * np.median(film.pixels) and inside.max() > 0.8 * film.pixels.max()
        assert max(iou(spot, film.boxes[-1]) for spot in spots) < 0.02
        assert [*spots] == [*spots[:3]] and spots[0][1] < spots[1][1] < spots[2][1]  # trachea, heart, diaphragm


def test_opacities_are_independent_and_as_frequent_as_the_card_says() -> None:
    drawn = [draw_spots(np.random.default_rng([1, index]), 0.35) for index in range(4000)]
    has = np.array([[name in spots for name in SPOTS_MM] for spots in drawn], float)
    assert has.mean(0) == pytest.approx(0.35, abs=0.03)
    assert np.abs(np.corrcoef(has.T) - np.eye(3)).max() < 0.06
    first = [spots[0] if spots else "mass" for spots in drawn]
    shares = [first.count(name) / 4000 for name in [*SPOTS_MM, "mass"]]
    assert shares == pytest.approx([0.35, 0.2275, 0.1479, 0.2746], abs=0.03)


def test_a_study_depends_on_seed_and_index_alone_and_asks_for_one_box() -> None:
    for one, other in zip(make(3), make(5), strict=False):
        assert one.sample == other.sample and np.array_equal(one.files["0.png"], other.files["0.png"])
    for study in make(30):
        (question,) = study.sample.questions
        spots = [] if study.sample.concept == "mass" else study.sample.concept.split("|")
        assert question.truth.any_of and len(question.truth.boxes) == len(spots) + 1
        assert study.sample.media[0].spacing_mm == (5.0, 5.0)
    one, other = (make_study(Config(kind="phantom_spots", seed=seed, films=1), 0) for seed in (3, 4))
    assert not np.array_equal(one.files["0.png"], other.files["0.png"])
    assert list_content(Config(kind="phantom_spots", films=1)) == Content(
        frozenset({"boxes"}), frozenset({"film"}), False, {}, frozenset()
    )
