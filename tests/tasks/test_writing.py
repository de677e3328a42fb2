from __future__ import annotations

import random

import pytest

from medvlm.core.sample import Box
from medvlm.tasks._brackets import MAX_BOXES, write
from medvlm.tasks._notations import read_boxes
from medvlm.tasks.boxes import Truth, parse, score


def random_boxes(rng: random.Random, n: int) -> list[Box]:
    boxes: list[Box] = []
    for _ in range(n):
        x1, x2 = sorted(rng.sample(range(1001), 2))
        y1, y2 = sorted(rng.sample(range(1001), 2))
        boxes.append((x1, y1, x2, y2))
    return boxes


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_is_read(seed: int) -> None:
    boxes = random_boxes(random.Random(seed), n=seed)
    assert parse(write(boxes)) == boxes


@pytest.mark.parametrize("seed", range(20))
def test_blanks_json_fences_and_words_around_do_not_matter(seed: int) -> None:
    boxes = random_boxes(random.Random(seed), n=3)
    spaced = write(boxes).replace(",", " , ").replace("[", "[\n ")
    json = ", ".join(f'{{"bbox_2d": {list(b)}, "label": "RBC"}}' for b in boxes)
    for text in (spaced, f"[{write(boxes)}]", f"```json\n[{json}]\n```", f"There are three: {write(boxes)}."):
        assert parse(text) == boxes


def test_written_by_hand() -> None:
    assert write([(12, 40, 88, 120)]) == "[12, 40, 88, 120]"
    assert write([(1.4, 2.6, 3.0, 4.0), (5, 6, 7, 8)]) == "[1, 3, 3, 4], [5, 6, 7, 8]"
    assert write([]) == "none"


def test_no_boxes_is_an_answer_and_nonsense_is_none() -> None:
    assert parse("none") == parse("None.") == parse("[]") == []
    for text in (
        "",
        "I see nothing",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "[a, b, c, d]",
        "[1 2, 3, 4, 5]",
        "none of [it]",
    ):
        assert parse(text) is None, text


def test_a_box_the_wrong_way_round_is_no_box_and_still_counts_as_one() -> None:
    text = "[30, 10, 20, 40], [1, 2, 3, 4], [5, 5, 5, 9]"
    assert parse(text) == [(1, 2, 3, 4)]
    assert read_boxes(text) == ([(1, 2, 3, 4)], 3)
    assert parse("[30, 10, 20, 40]") is None
    assert score(text, Truth(boxes=((1, 2, 3, 4),))) == pytest.approx(1 / 3)


def test_an_answer_of_very_many_boxes_is_not_read() -> None:
    assert len(parse("[1, 2, 3, 4] " * MAX_BOXES) or []) == MAX_BOXES
    assert parse("[1, 2, 3, 4] " * (MAX_BOXES + 1)) is None
