"""Boxes as families of models write them, and as nobody should be paid for."""

from __future__ import annotations

import time

import pytest

from medvlm.core import geometry
from medvlm.core.config import kinds
from medvlm.core.sample import Box, truth_from_json
from medvlm.rewards._compose import Composer
from medvlm.tasks import boxes, indexed_boxes, points
from medvlm.tasks._notations import read_boxes
from medvlm.tasks._writing import Writing
from medvlm.tasks.boxes import Truth, parse, score

ONE: list[Box] = [(10, 20, 30, 40)]
TWO: list[Box] = [(10, 20, 30, 40), (50, 60, 70, 80)]

READ: list[tuple[str, list[Box]]] = [
    ("(10, 20, 30, 40)", ONE),
    ("10, 20, 30, 40", ONE),
    ("10 20 30 40", ONE),
    ("[[10, 20], [30, 40]]", ONE),
    ("<box> 10 20 30 40 </box>", ONE),
    ("<box>10, 20, 30, 40</box>", ONE),
    ("[10., 20., 30., 40.]", ONE),
    ("[10; 20; 30; 40]", ONE),
    ("x1=10, y1=20, x2=30, y2=40", ONE),
    ('{"x1": 10, "y1": 20, "x2": 30, "y2": 40}', ONE),
    ('{"xmin": 10, "ymin": 20, "xmax": 30, "ymax": 40}', ONE),
    ('{"left": 10, "top": 20, "right": 30, "bottom": 40}', ONE),
    ('{"x": 10, "y": 20, "width": 20, "height": 20}', ONE),
    ("[{'box_2d': [20, 10, 40, 30]}]", ONE),
    ("box_2d: [20, 10, 40, 30]", ONE),
    ('[{"box_2d": [20, 10, 40, 30], "label": "RBC"}, {"box_2d": [60, 50, 80, 70]}]', TWO),
    ('[{"box_2d" : [20, 10, 40, 30]}]', ONE),
    ('{"box_2d": [[20, 10, 40, 30], [60, 50, 80, 70]]}', TWO),
    ('[{"bbox_2d": [10, 20, 30, 40], "label": "not a \\"box_2d\\""}]', ONE),
    ('```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "RBC"}]\n```', ONE),
    ("<|box_start|>(10,20),(30,40)<|box_end|>", ONE),
    ("<|object_ref_start|>RBC<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>", ONE),
    ("<ref>RBC</ref><box>(10,20),(30,40)</box>", ONE),
    ("<ref>RBC</ref><box>[[10, 20, 30, 40], [50, 60, 70, 80]]</box>", TWO),
    ("<|ref|>RBC<|/ref|><|det|>[[10, 20, 30, 40]]<|/det|>", ONE),
    ("<|begin_of_box|>[[10,20,30,40]]<|end_of_box|>", ONE),
    ("[[010,020,030,040;050,060,070,080]]", TWO),
    ("[10,20,30,40;50,60,70,80]", TWO),
    ("<loc0020><loc0010><loc0040><loc0030> RBC", ONE),
    ("<loc0020><loc0010><loc0040><loc0030> RBC ; <loc0060><loc0050><loc0080><loc0070> RBC", TWO),
    ("RBC<loc_10><loc_20><loc_30><loc_40>", ONE),
    ("{<10><20><30><40>}", ONE),
    ("<box><x10><y20><x30><y40></box>", ONE),
    ("<box><x_10><y_20><x_30><y_40></box>", ONE),
    ("<patch_index_0033><patch_index_0066>", [(1, 1, 3, 3)]),
    ("from (10, 20) to (30, 40)", ONE),
    ("top-left (10, 20), bottom-right (30, 40)", ONE),
    ("There are none.", []),
    ("no", []),
    ("No RBC visible", []),
    ("None found", []),
    ("```json\n[]\n```", []),
    ("<box></box>", []),
    ("<box>[]</box>", []),
    ('{"boxes": []}', []),
    ("[]", []),
    ("none", []),
    ("There are no others than [10, 20, 30, 40]", ONE),
    ("There is one: [10, 20, 30, 40]. No other RBC.", ONE),
    ("[ 10,\n 20,\n 30,\n 40 ]", ONE),
    ("10, 20, 30, 40\n50, 60, 70, 80", TWO),
    ('[{"bbox_2d": [10, 20, 30, 40], "label": "no finding"}]', ONE),
    ("The box is [10, 20, 30, 40].", ONE),
    ("没有", []),
    ("[0.1, 0.2, 0.3, 0.4]", [(0.1, 0.2, 0.3, 0.4)]),
    ("[-5, 0, 10, 10]", [(-5, 0, 10, 10)]),
]
UNREADABLE: list[str] = [
    "no RBC at [10, 20, 30, 40]",
    "none [10, 20, 30, 40]",
    "[10, 20, 30, 40] is not RBC",
    "[10, 20, 30, 40], [50",
    '[{"bbox_2d": [10, 20, 30, 40], "label": "RBC"}, {"bbox_2d": [5, 6',
    '[{"bbox_2d": [10, 20, 30, 40], "lab',
    "<loc0020><loc0010><loc0040><loc0030> RBC ; <loc0060><loc",
    '<points x1="10.5" y1="20.1" x2="30.1" y2="40.0" alt="RBC">RBC</points>',
    '<point x="10.5" y="20.1">',
    '{"point_2d": [[10, 20], [30, 40]]}',
    "[10, 20, 30, 40, 0.9]",
    "[10, 20, 30]",
    "",
    "I cannot tell",
    "I see nothing",
    "none of [it]",
    "x1=10, y1=20, x2=30",
    "bbox: 10 20 30 40",
]


@pytest.mark.parametrize(("text", "found"), READ)
def test_boxes_of_every_notation_are_read(text: str, found: list[Box]) -> None:
    assert parse(text) == found
    assert score(text, Truth(boxes=tuple(found))) == 1


@pytest.mark.parametrize("text", UNREADABLE)
def test_nothing_is_earned_by_what_is_no_answer(text: str) -> None:
    """Denied boxes, points, boxes that are cut off, and words that say nothing."""
    assert parse(text) is None
    assert all(score(text, Truth(boxes=tuple(true))) == 0 for true in ([], ONE, TWO))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<loc0512><loc0256><loc1024><loc0512>", (250, 500, 500, 1000)),
        ("<loc_250><loc_500><loc_500><loc_999>", (250, 500, 500, 999)),
        ("<patch_index_0000><patch_index_1023>", (0, 0, 1000, 1000)),
        ("{<25><50><50><100>}", (250, 500, 500, 1000)),
        ("<x25><y50><x50><y100>", (250, 500, 500, 1000)),
        ("[250, 500, 500, 1000]", (250, 500, 500, 1000)),
    ],
)
def test_tokens_with_units_of_their_own_are_read_in_those_of_the_recipe(text: str, found: Box) -> None:
    reading = read_boxes(text, (1000, 1000))
    assert reading is not None and reading.boxes == [pytest.approx(found)]


def place(codec: str) -> boxes.Truth:
    return boxes.place(Truth(boxes=tuple(TWO), label="RBC"), geometry.identity((100, 100)), Writing(codec))


@pytest.mark.parametrize("codec", kinds("tasks.codecs"))
def test_format_knows_the_codec_and_the_extent_of_the_recipe(codec: str) -> None:
    truth, reward = place(codec), Composer({"format": 1})
    written = truth.answer
    assert reward.score(written, truth)[0] == score(written, truth) == 1
    others = {other: place(other).answer for other in kinds("tasks.codecs")}
    alike = {"bbox_2d", "bbox_2d_pixels"}  # differ in their extent alone
    for other, text in others.items():
        if other != codec and not {other, codec} <= alike:
            assert reward.score(text, truth)[0] == 0, text
    twice = Writing(codec).write([truth.boxes[0], truth.boxes[0]], "RBC")
    wide, high = truth.extent
    beyond = Writing(codec).write([(wide * 0.5, high * 0.5, wide * 5, high * 9)], "RBC")
    for wrong in (twice, beyond, written + " and more", written.replace("RBC", "WBC") if "RBC" in written else "x"):
        assert reward.score(wrong, truth)[0] == 0, wrong


@pytest.mark.parametrize(
    "text",
    [
        "[0.100, 0.100, 0.300, 0.300]",
        "<loc0100><loc0100><loc0300><loc0300> RBC",
        '[{"box_2d": [100, 100, 300, 300], "label": "RBC"}]',
        "[5000, 5000, 9000, 9000]",
        "[-50, -50, 10, 10]",
        "[10, 10, 20, 20], [10, 10, 20, 20]",
        "[300, 100, 100, 300]",
    ],
)
def test_format_of_thousandths_is_not_that_of_others(text: str) -> None:
    assert not boxes.is_formatted(text, place("thousandths"))


def test_more_boxes_than_there_are_never_pay() -> None:
    truth = Truth(boxes=tuple(ONE))
    right = "[10, 20, 30, 40]"
    for more in (right, "[30, 40, 10, 20]", "[5, 5, 5, 9]", "[0, 0, 1000, 1000]"):
        assert score(f"{right}, {more}", truth) == 0.5


def test_a_truth_that_is_placed_comes_back_from_json_and_another_has_no_new_fields() -> None:
    placed = place("loc")
    assert truth_from_json(placed.to_json()) == placed
    assert list(placed.extent) == [1024, 1024]
    assert set(Truth(boxes=tuple(ONE)).to_json()) == {"task", "answer", "boxes", "label"}


@pytest.mark.parametrize(
    "tail", [f"[{'1' * 20000})", '"' + '\\"' * 10000, "[1" * 10000], ids=["cut", "quotes", "brackets"]
)
def test_a_long_answer_takes_no_longer_for_what_stands_in_it(tail: str) -> None:
    """Of an expression in which two repetitions share a character, 20,000 of them took ten seconds."""
    start = time.perf_counter()
    score(f"[10, 20, 30, 40] {tail}", Truth(boxes=tuple(ONE)))
    indexed_boxes.score(f"image 1: [10, 20, 30, 40] {tail}", indexed_boxes.Truth(boxes=tuple(ONE)))
    points.score(f"[10, 20] {tail}", points.Truth(points=((10, 20),)))
    assert time.perf_counter() - start < 2
