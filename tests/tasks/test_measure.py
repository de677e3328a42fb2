"""Measurements: lengths and angles from points and spacing, how texts say them, and pixel sizes in questions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from medvlm.archive.packing.stored import prepare_sample
from medvlm.archive.readers.phantom import Config as PhantomConfig
from medvlm.archive.readers.phantom import film_study
from medvlm.archive.tables.questions import TableQuestion, make_question
from medvlm.core import geometry
from medvlm.core.card import load_card
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, make_truth
from medvlm.core.text import PIXEL_MM
from medvlm.core.turns import state_pixels
from medvlm.recipe.load import find_shipped
from medvlm.tasks._measurements import read_measurements
from medvlm.tasks.measure import MEASURES, Config, Truth, best_constant, from_text, score, settle

FILM = (Medium("film", "0.png", (100, 200), (0.5, 2.0)),)
"""A row is 0.5 mm high, a column 2 mm wide."""


def read(text: str, **own: Any) -> Truth:
    truth = from_text(text, Config(kind="measure", **own))
    assert truth is not None, text
    return truth


@pytest.mark.parametrize(
    ("points", "of", "values"),
    [
        ("[0, 0], [15, 80]", "length", (50.0,)),  # 30 mm across, 40 mm down
        ("[0, 0], [15, 80], [10, 10], [10, 30]", "length", (50.0, 10.0)),
        ("[0, 80], [0, 0], [20, 80]", "angle", (45.0,)),  # 40 mm down; 40 mm across and 40 mm down
        ("[5, 5], [25, 5], [50, 0], [50, 60]", "angle", (90.0,)),
        ("[5, 5], [25, 5], [60, 50], [40, 50]", "angle", (180.0,)),
    ],
)
def test_points_are_measured_by_the_spacing_of_each_axis(points: str, of: str, values: tuple[float, ...]) -> None:
    settled: Any = settle(read(points, of=of), FILM)
    assert settled.values == pytest.approx(values) and settled.points == ()
    assert score(settled.answer, settled) == 1


@pytest.mark.parametrize(
    ("points", "media", "why"),
    [
        ("[0, 0], [1, 1]", (replace(FILM[0], spacing_mm=None),), "its length is given by points, but its image has no"),
        ("[0, 0], [201, 1]", FILM, "a point lies beyond the image of 200 x 100 pixels"),
    ],
)
def test_points_that_cannot_be_measured_are_refused(points: str, media: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        settle(read(points), media)
    with pytest.raises(DataError, match="begins and ends at the same point"):
        settle(read("[0, 0], [0, 0], [5, 5]", of="angle"), FILM)


def test_a_text_of_an_archive_says_numbers_or_points() -> None:
    assert read("1.2 x 0.8 cm").values == (12.0, 8.0)
    assert read("41.23 mm").answer == "41.2 mm" and score("41.2 mm", read("41.23 mm")) == 1
    assert read("0.456 mm").answer == "0.46 mm"
    for text in ("large", "[1, 2]", "[1, 2], [3, 4], [5, 6]", "[1, 2], [3, 4] mm", "12-15 mm", "< 5 mm"):
        assert from_text(text, Config(kind="measure")) is None, text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12.5 mm", 12.5),
        ("about 1.25cm", 12.5),
        ("12.5 millimetres", 12.5),
        ("12500 µm", 12.5),
        ("The nodule measures 12.5 mm.", 12.5),
        ("１２.５ mm", 12.5),
        ("12,5 mm", None),
        ("12.5 mm2", None),
        ("12.5 kg", None),
        ("12.5 %", None),
        ("T12 12.5 mm", 12.5),
        ("12.5.5 mm", None),
        ("at most 12.5 mm", None),
        ("12.5 ± 1 mm", None),
        ("no 12.5 mm", None),
        ("12.5 degrees", None),
        ("mm", None),
    ],
)
def test_how_a_length_is_said(text: str, found: float | None) -> None:
    read = read_measurements(text, "mm", 1)
    assert read == (None if found is None else pytest.approx((found,)))


def test_small_numbers_are_compared_with_one_millimetre() -> None:
    assert score("0.7 mm", Truth(values=(0.2,))) == pytest.approx(0.5)
    assert score("44 mm", Truth(values=(40.0,))) == pytest.approx(0.9)


def test_measures_keep_units_apart_and_count_what_cannot_be_read() -> None:
    columns: dict[str, Any] = {measure.metric: measure.columns for measure in MEASURES}
    length, angle = Truth(values=(40.0,)), Truth(values=(30.0,), of="angle")
    assert columns["mae"]("46 mm", length) == {"mm": (6.0, 1.0)}
    assert columns["mae"]("?", angle) == {"degrees": (30.0, 1.0)}
    assert columns["mre"]("46 mm", length)[0] == pytest.approx(0.15) and columns["mre"]("?", length)[0] == 1
    assert [columns["success"](text, length)[0] for text in ("44 mm", "44.1 mm", "36 mm")] == [1, 0, 1]
    assert [columns["success"](text, replace(length, tolerance=0.2))[0] for text in ("48 mm", "49 mm")] == [1, 0]


def test_the_best_constant_may_be_an_answer_that_is_never_right() -> None:
    truths = [Truth(values=(value,)) for value in (10.0, 12.0, 30.0, 31.0)]
    assert best_constant(truths) == "21.0 mm" or score(best_constant(truths), truths[0]) > 0
    tried = {value / 10: sum(score(f"{value / 10} mm", truth) for truth in truths) for value in range(50, 400)}
    assert sum(score(best_constant(truths), truth) for truth in truths) >= max(tried.values()) - 0.15


def test_a_question_states_the_pixel_that_the_model_sees() -> None:
    """Padding to a square does not change it: the scale of the contents counts, on each axis."""
    question = Question(f"How long? A pixel is {PIXEL_MM}.", make_truth("measure", values=(5.0,)), "length")
    canvas = geometry.resize((100, 200), (50, 400)).then(geometry.crop((50, 400), -175, 0, (400, 400)))
    assert state_pixels(question, FILM, canvas).text == "How long? A pixel is 1 x 1 mm."
    with pytest.raises(DataError, match=r"length: its text has \{pixel_mm\}, but the spacing of what is shown is not"):
        state_pixels(question, FILM, None)
    other = replace(question, text="How long?")
    assert state_pixels(other, (), None) is other


def test_a_card_may_ask_with_the_size_of_a_pixel() -> None:
    """It is not a column of the table."""
    asked = TableQuestion(text=f"Pixels are {PIXEL_MM}. How long is the {{what}}?", answer="{mm} mm", task="measure")
    assert asked.columns == {"what", "mm"}
    made = make_question(asked, {"what": "nodule", "mm": "12"}, "a")
    assert made is not None and made.text == f"Pixels are {PIXEL_MM}. How long is the nodule?"
    assert made.truth == Truth(values=(12.0,))


def test_the_phantom_asks_for_the_length_that_it_draws_and_packing_settles_points() -> None:
    config = PhantomConfig(seed=5, films=20, millimetres=True)
    card = load_card(find_shipped("data_cards") / "phantom.yaml")
    studies = [film_study(config, index) for index in range(20)]
    found = [q for study in studies for q in study.sample.questions if q.template == "length"]
    assert len(found) > 12 and all(PIXEL_MM in question.text for question in found)
    truths: list[Any] = [question.truth for question in found]
    assert all(26 < truth.values[0] < 72 for truth in truths)
    plain = film_study(PhantomConfig(seed=5, films=20), 0)
    assert tuple(q for q in studies[0].sample.questions if q.template != "length") == plain.sample.questions
    points = Question("How long?", Truth(points=((0, 0), (30, 40))), "own")
    raw = replace(plain, sample=replace(plain.sample, questions=(points,)))
    stored: Any = prepare_sample(raw, card)[0].questions[0].truth
    assert stored.values == (round(math.dist((0, 0), (30, 40)) * 320 / 128, 1),)
