"""Rewards made of rewards, routing by source and task, and single rewards against other computations."""

from __future__ import annotations

import random

import pytest
import torch

from medvlm.core.contracts import Case
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Box, make_truth
from medvlm.rewards import ciou, giou
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import dump_rewards
from medvlm.tasks._steps import count_rising

SIDE = make_truth("choice", "left", choices=("left", "right"))
FOUR = make_truth("count", "4", count=4)
RNG = random.Random(0)


def make_box() -> Box:
    x, y = RNG.uniform(0, 50), RNG.uniform(0, 50)
    return x, y, x + RNG.uniform(1, 50), y + RNG.uniform(1, 50)


PAIRS = [(make_box(), make_box()) for _ in range(100)]


def areas(a: Box, b: Box) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Intersection, union, and the corners of the frame, with tensors."""
    first, second = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    inner = (torch.minimum(first[2:], second[2:]) - torch.maximum(first[:2], second[:2])).clamp(min=0).prod()
    union = (first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - inner
    frame = torch.maximum(first[2:], second[2:]) - torch.minimum(first[:2], second[:2])
    return inner, union, frame


def test_giou_is_that_of_its_paper() -> None:
    for a, b in PAIRS:
        inner, union, frame = areas(a, b)
        expected = inner / union - (frame.prod() - union) / frame.prod()
        assert giou.find_giou(a, b) == pytest.approx(float(expected), abs=1e-9)


def test_giou_is_that_of_torchvision() -> None:
    ops = pytest.importorskip("torchvision.ops")
    left, right = (torch.tensor(boxes, dtype=torch.float64) for boxes in zip(*PAIRS, strict=True))
    assert [giou.find_giou(a, b) for a, b in PAIRS] == pytest.approx(
        ops.generalized_box_iou(left, right).diagonal().tolist(), abs=1e-9
    )
    assert [ciou.find_ciou(a, b) for a, b in PAIRS] == pytest.approx(
        ops.complete_box_iou(left, right).diagonal().tolist(), abs=1e-6
    )


def test_ciou_is_that_of_its_paper() -> None:
    for a, b in PAIRS:
        inner, union, frame = areas(a, b)
        overlap = inner / union
        apart = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
        (w, h), (w2, h2) = ((box[2] - box[0], box[3] - box[1]) for box in (a, b))
        angles = [torch.atan(torch.tensor(x / y, dtype=torch.float64)) for x, y in ((w, h), (w2, h2))]
        v = 4 / torch.pi**2 * (angles[0] - angles[1]) ** 2
        expected = overlap - apart / frame.square().sum() - v * v / (1 - overlap + v)
        assert ciou.find_ciou(a, b) == pytest.approx(float(expected), abs=1e-9)


def test_boxes_are_matched_one_to_one_and_none_is_paid_twice() -> None:
    truth = make_truth("boxes", boxes=((0, 0, 100, 100), (200, 0, 300, 100)))
    score = Composer({"giou": 1}).score
    assert score("[0, 0, 100, 100], [0, 0, 100, 100]", truth)[0] == pytest.approx((1 + 1 / 3) / 2)  # GIoU -1/3
    assert score("[200, 0, 300, 100], [0, 0, 100, 100]", truth)[0] == pytest.approx(1)


def test_a_product_pays_what_all_of_it_pay() -> None:
    band = {"length": {"weight": 1, "least": 4, "most": 8}}
    composer = Composer({"product": {"weight": 1, "of": {"choice": 1, **band}}})
    total, parts = composer.score("It is left.", SIDE)
    assert total == parts["product"] == pytest.approx(0.75)
    assert composer.score("It is right.", SIDE)[0] == 0
    assert composer.score("one two three four", FOUR)[0] == 1, "the choice cannot judge a count and is left out"


def test_a_gate_opens_from_its_least_on() -> None:
    pay = {"weight": 1, "when": {"length": {"weight": 1, "least": 4, "most": 8}}, "pay": {"choice": 1}}
    assert Composer({"gate": pay}).score("It is left.", SIDE)[0] == 0
    assert Composer({"gate": {**pay, "least": 0.75}}).score("It is left.", SIDE)[0] == 1


def test_a_reward_judges_the_sources_and_tasks_that_it_is_for() -> None:
    """And one of a name of one's own, so that one kind can stand twice."""
    composer = Composer(
        {
            "short": {"kind": "length", "weight": 1, "least": 1, "most": 2, "sources": ["vqa"]},
            "long": {"kind": "length", "weight": 1, "least": 4, "most": 8, "sources": ["reports"]},
            "count": {"weight": 3, "tasks": ["count"]},
            "format": {"weight": 1, "tasks": ["choice"]},
        }
    )
    assert composer.score("left", Case(SIDE, source="vqa"))[1] == {"short": 1.0, "format": 1.0}
    assert composer.score("left", Case(SIDE, source="reports"))[1] == {"long": 0.25, "format": 1.0}
    total, parts = composer.score("4", Case(FOUR, source="vqa"))
    assert (total, parts) == (1.0, {"short": 1.0, "count": 1.0})
    assert composer.list_judged_tasks()[:2] == ("choice", "open"), "of some source, every task can be judged"
    with pytest.raises(RecipeError, match=r"none of length can judge an answer of task 'choice' of source vqa"):
        Composer({"length": {"weight": 1, "least": 1, "most": 2, "sources": ["reports"]}}).score(
            "left", Case(SIDE, source="vqa")
        )


def test_what_is_dumped_makes_the_same_again() -> None:
    written = {
        "choice": 0.5,
        "gate": {"weight": 1.0, "when": {"tags": 1.0}, "pay": {"inside": {"weight": 1.0, "pay": {"choice": 1.0}}}},
        "json_schema": {"weight": 0.1, "schema": {"type": "object"}},
    }
    composer = Composer(written)
    assert composer.to_json() == written and dump_rewards(Composer(composer.to_json()).configs) == written


@pytest.mark.parametrize(("rewards", "message"), [
    ({"product": {"weight": 1, "of": {"chioce": 1}}}, r"rewards\.product\.of\.chioce: unknown reward 'chioce'"),
    ({"product": {"weight": 1}}, r"rewards\.product\.of"),
    ({"mine": {"weight": 1}}, r"unknown reward 'mine'"),
    ({"mine": {"kind": "lenght", "weight": 1}}, r"did you mean 'length'"),
    ({"length": {"weight": 1, "least": 9, "most": 2}}, "no answer is in between"),
    ({"json_schema": {"weight": 1, "schema": {"type": "object", "oneOf": []}}}, "'oneOf' is not read"),
    ({"structure": {"weight": 1, "sections": ["finding"]}}, "'finding' is no section"),
    ({"tags": {"weight": 1, "tags": ["<think>"]}}, "expected different names"),
])  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(rewards: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Composer(rewards)


def test_only_rewards_of_the_images_need_to_know_their_gain() -> None:
    assert not Composer({"choice": 1}).needs_image_gain
    nested = {"product": {"weight": 1, "of": {"choice": 1, "grounded": 1}}}
    composer = Composer(nested)
    assert composer.needs_image_gain
    assert composer.score("left", Case(SIDE, image_gain=0.0))[0] == 0
    assert composer.score("left", SIDE)[0] == 1, "where it was not measured, it is left out"


def test_the_longest_rising_run_of_steps_counts() -> None:
    assert [count_rising(places) for places in ([], [0, 1, 2], [2, 0, 1], [2, 1, 0], [0, 3, 1, 2])] == [0, 3, 2, 1, 3]
