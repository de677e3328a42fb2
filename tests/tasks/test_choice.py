from __future__ import annotations

import pytest

from medvlm.tasks import choice
from medvlm.tasks._words import normalise

SIDES = ("left", "right", "both")


def parse(text: str, choices: tuple[str, ...]) -> str | None:
    return choice.parse(text, choice.Truth(choices=choices))


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
        ("left left left", None),
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
        ("5 %, 5%", "5% 5%"),
        ("An A", "an a"),
        ("Ｔ２", "t2"),  # full-width letters
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert normalise(text) == expected
