from __future__ import annotations

import random
from statistics import mean

from medvlm.answers.boxes import parse
from medvlm.core.sample import Box, Truth
from medvlm.metrics.boxes import mean_iou
from medvlm.metrics.count import error
from medvlm.metrics.majority import best_constant


def boxes(*found: Box) -> Truth:
    return Truth("boxes", "{boxes}", boxes=found)


def test_the_most_frequent_answer_whatever_its_writing() -> None:
    truths = [Truth("open", answer) for answer in ("PA", "Axial", "axial", "The axial", "PA")]
    assert best_constant(truths) == "Axial"


def test_no_other_count_has_a_smaller_mean_error() -> None:
    rng = random.Random(0)
    truths = [Truth("count", "", count=int(rng.expovariate(0.1))) for _ in range(101)]
    errors = {n: mean(error(str(n), truth) for truth in truths) for n in range(60)}
    assert errors[int(best_constant(truths))] == min(errors.values())


def test_the_box_is_where_most_boxes_are_and_not_between_two_sides() -> None:
    """60 objects left, 40 right: the coordinate-wise median of two sides would overlap with neither much."""
    rng = random.Random(1)

    def near(x: int) -> Truth:
        dx, dy = rng.randint(-10, 10), rng.randint(-10, 10)
        return boxes((x + dx, 400 + dy, x + dx + 100, 500 + dy))

    truths = [near(100) for _ in range(60)] + [near(800) for _ in range(40)]
    rng.shuffle(truths)
    found = parse(best_constant(truths))
    assert found is not None and len(found) == 1
    assert abs(found[0][0] - 100) <= 10


def test_the_median_box_is_taken_where_it_is_better() -> None:
    """Boxes that jitter about one place: no single one of them is as central as their median."""
    rng = random.Random(2)
    corners = [
        (rng.randint(380, 420), rng.randint(380, 420), rng.randint(580, 620), rng.randint(580, 620)) for _ in range(200)
    ]
    truths = [boxes(corner) for corner in corners]
    constant = best_constant(truths)
    score = mean(mean_iou(constant, truth) for truth in truths)
    assert score >= max(mean(mean_iou(f"{list(corner)}", truth) for truth in truths) for corner in corners[:20])


def test_several_boxes_and_none() -> None:
    two = boxes((0, 0, 50, 50), (100, 100, 150, 150))
    assert best_constant([two, two, boxes((0, 0, 50, 50))]) == "[0, 0, 50, 50], [100, 100, 150, 150]"
    assert best_constant([boxes(), boxes(), two]) == "none"
