"""Boxes: what overlaps earn, and which constant is the best."""

from __future__ import annotations

import random
from statistics import mean

import numpy as np
import pytest

from medvlm.core.geometry import crop, flip, resize
from medvlm.core.sample import Box
from medvlm.tasks._brackets import write
from medvlm.tasks._writing import Writing
from medvlm.tasks.boxes import (
    MEASURES,
    Config,
    Truth,
    best_constant,
    count_hits,
    find_ap50,
    follow,
    from_text,
    hit_rate,
    mean_iou,
    parse,
    place,
    score,
)


def boxes(*found: Box) -> Truth:
    return Truth(boxes=found)


def test_boxes_by_hand() -> None:
    truth = Truth(boxes=((0, 0, 10, 10), (20, 20, 30, 30)))
    answer = write([(0, 0, 10, 8), (20, 20, 30, 24), (50, 50, 60, 60), (70, 70, 80, 80)])
    assert mean_iou(answer, truth) == pytest.approx((0.8 + 0.4) / 4)
    assert hit_rate(answer, truth) == pytest.approx(1 / 4)
    assert hit_rate(write(truth.boxes), truth) == 1
    assert mean_iou("no idea", truth) == 0


def test_nothing_to_find() -> None:
    nothing = Truth()
    assert mean_iou("none", nothing) == hit_rate("none", nothing) == 1
    for answer in ("[0, 0, 1, 1]", "no idea"):
        assert mean_iou(answer, nothing) == hit_rate(answer, nothing) == 0


@pytest.mark.parametrize("seed", range(20))
def test_one_more_box_than_there_are_never_pays_unless_it_fits_better(seed: int) -> None:
    """With at least as many boxes as there are, a further box that overlaps nothing costs its share."""
    rng = random.Random(seed)
    truth_boxes = tuple(random_box(rng) for _ in range(4))
    truth = Truth(boxes=truth_boxes)
    found = [random_box(rng) for _ in range(4 + seed % 3)]
    before = score(write(found), truth)
    after = score(write([*found, (2000, 2000, 2100, 2100)]), truth)
    assert after == pytest.approx(before * len(found) / (len(found) + 1))


def test_a_grid_of_boxes_scores_little() -> None:
    truth = Truth(boxes=((105, 205, 195, 295),))
    grid: list[Box] = [(x, y, x + 100, y + 100) for x in range(0, 1000, 100) for y in range(0, 1000, 100)]
    assert score(write(grid), truth) == pytest.approx(0.81 / 100)


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


def random_box(rng: random.Random) -> Box:
    x, y = rng.randint(0, 800), rng.randint(0, 800)
    return x, y, x + rng.randint(50, 200), y + rng.randint(50, 200)


def test_the_best_constant_of_hits_may_overlap_less() -> None:
    """Two boxes far away are alike; four others overlap their neighbours, but with an IoU below 0.5."""
    truths = [boxes((x, 0, x + 100, 100)) for x in (900, 900, 0, 34, 68, 102)]
    overlapping, hitting = (best_constant(truths, measure) for measure in MEASURES[:2])
    found = [sum(hit_rate(answer, truth) for truth in truths) for answer in (overlapping, hitting)]
    assert found == [1, 2] and best_constant(truths) == overlapping


def test_of_several_boxes_of_which_one_is_to_be_marked_the_first_is_written() -> None:
    first, second = (60.0, 10.0, 90.0, 40.0), (0.0, 0.0, 20.0, 20.0)
    truth = Truth(boxes=(first, second), label="finding", any_of=True)
    placed = place(truth, resize((100, 100), (50, 50)), Writing("thousandths", 100))
    assert placed.answer == "[60, 10, 90, 40]" and placed.boxes == (first, second)
    assert score(placed.answer, placed) == score("[0, 0, 20, 20]", placed) == 1
    assert score("[0, 0, 20, 10]", placed) == 0.5
    assert Truth.from_json(truth.to_json()) == truth and "any_of" not in boxes(first).to_json()


def test_the_marked_box_stays_the_first_when_the_image_changes() -> None:
    """A mirrored image turns the order of the sides around; a crop may take the marked one away."""
    truth = Truth(boxes=((0.0, 0.0, 20.0, 20.0), (60.0, 10.0, 90.0, 40.0)), any_of=True)
    mirrored = follow(truth, flip((100, 100)))
    assert mirrored is not None and mirrored.boxes == ((80.0, 0.0, 100.0, 20.0), (10.0, 10.0, 40.0, 40.0))
    right = follow(truth, crop((100, 100), 0, 50, (100, 50)))
    assert right is not None and right.any_of and right.boxes == ((10.0, 10.0, 40.0, 40.0),)


def test_a_card_says_that_one_is_to_be_marked() -> None:
    text = "[60, 10, 90, 40], [0, 0, 20, 20]"
    assert from_text(text, Config(kind="boxes", any_of=True)) == Truth(
        boxes=((60, 10, 90, 40), (0, 0, 20, 20)), any_of=True
    )
    assert from_text(text, Config(kind="boxes")) == boxes((0, 0, 20, 20), (60, 10, 90, 40))


def test_the_best_constant_of_any_of_is_one_box() -> None:
    truths = [Truth(boxes=((0, 0, 10, 10), (50, 50, 60 + n, 60)), any_of=True) for n in range(4)]
    assert best_constant(truths) == "[0, 0, 10, 10]"


def test_average_precision_is_that_of_sklearn_times_recall() -> None:
    """sklearn's is that of what was written: it does not know of boxes that nobody wrote."""
    from sklearn.metrics import average_precision_score

    side = [(float(x), 0.0, x + 10.0, 10.0) for x in (0, 100, 200, 300)]
    truths = [Truth(boxes=tuple(side[:2]), label="cell"), Truth(boxes=(side[2],), label="cell"), Truth(label="cell")]
    answers = [write([side[0], side[3]]), write([side[2]]), write([side[1]])]
    totals = np.sum([count_hits(*each)["cell"] for each in zip(answers, truths, strict=True)], axis=0)
    assert totals.tolist() == [2, 4, 3]
    known = average_precision_score([1, 0, 1, 0], [1.0] * 4)
    assert find_ap50(totals[None])[0] == pytest.approx(known * 2 / 3)
    assert find_ap50(np.array([[0.0, 0.0, 2.0]]))[0] == 0 and np.isnan(find_ap50(np.array([[0.0, 1.0, 0.0]]))[0])
