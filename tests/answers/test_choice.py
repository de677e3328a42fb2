from __future__ import annotations

import pytest

from medvlm.answers.choice import normalise, parse
from medvlm.answers.open import is_same, token_f1

SIDES = ("left", "right", "both")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left", "left"),
        (" Left.\n", "left"),
        ("The RIGHT lung", "right"),
        ("It is on the left, in the upper zone.", "left"),
        ("left or right", None),
        ("leftward", None),
        ("", None),
        ("neither", None),
        ("left left left", "left"),
    ],
)
def test_a_choice_is_read_when_it_is_the_only_one_named_as_a_whole_word(text: str, expected: str | None) -> None:
    assert parse(text, SIDES) == expected


def test_a_choice_inside_a_longer_one_is_not_named() -> None:
    zones = ("left", "left lower", "upper left", "lower")
    assert parse("in the left lower zone", zones) == "left lower"
    assert parse("left", zones) == "left"
    assert parse("upper left lower", zones) is None


def test_letters_of_multiple_choice_are_not_taken_for_articles() -> None:
    assert parse("A", ("A", "B")) == "A"
    assert parse("The answer is A.", ("A", "B")) == "A"
    assert parse("B", ("A", "B")) == "B"


def test_the_choice_is_returned_as_the_question_wrote_it() -> None:
    assert parse("x ray", ("X-Ray", "MRI")) == "X-Ray"
    assert parse("no", ("Yes", "No")) == "No"


def test_nothing_is_read_without_choices() -> None:
    assert parse("left", ()) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Left-sided, Lesion!", "left sided lesion"),
        ("5.6cm", "5.6 cm"),
        ("5 %, 5%", "5 5%"),
        ("An A", "an a"),
        ("Ｔ２", "t2"),  # full-width letters
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_open_answers_are_the_same_up_to_case_punctuation_and_articles() -> None:
    assert is_same("The Chest X-ray.", "chest x ray")
    assert not is_same("chest", "chest x-ray")
    assert not is_same("5", "5%")


def test_token_f1_by_hand() -> None:
    """Two of two words right, two of three found: precision 1, recall 2/3, F1 0.8."""
    assert token_f1("right lobe", "right upper lobe") == pytest.approx(0.8)
    assert token_f1("right right", "right") == pytest.approx(2 / 3)
    assert token_f1("left", "right") == 0
    assert token_f1("", "right") == 0
    assert token_f1("", "...") == 1
