from __future__ import annotations

import pytest

from medvlm.answers.count import parse, write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("There are 12 red cells.", 12),
        ("RBC:7", 7),
        ("Seventeen", 17),
        ("twenty", 20),
        ("none", 0),
        ("0", 0),
        ("007", 7),
        ("3 (three)", 3),
        ("3 on the T2 image", 3),
        ("2 or 3", None),
        ("3-4", None),
        ("3.5", None),
        ("-3", None),
        ("1,000", None),
        ("twenty-one", None),
        ("T2", None),
        ("3cm", None),
        ("many", None),
        ("", None),
        ("\u017fix", None),  # a long s: equal to an s only where case is ignored
        ("F\u0130VE", None),
        ("9" * 10, None),
        ("[1, 2, 3, 4]", None),
    ],
)
def test_a_count_is_one_whole_number(text: str, expected: int | None) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("n", [*range(25), 999_999_999])
def test_what_is_written_is_read(n: int) -> None:
    assert parse(write(n)) == n


def test_number_words_by_hand() -> None:
    by_hand = {"one": 1, "four": 4, "eleven": 11, "twelve": 12, "fifteen": 15, "eighteen": 18}
    assert {word: parse(word) for word in by_hand} == by_hand
