"""Properties of single rewards that examples cannot show."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from medvlm.answers.boxes import write
from medvlm.core.sample import Box, Truth
from medvlm.rewards import boxes, count


@pytest.mark.parametrize("n", [0, 1, 2, 7, 30])
def test_a_nearer_count_never_scores_less(n: int) -> None:
    truth = Truth("count", str(n), count=n)
    below = [count.score(str(found), truth) for found in range(n + 1)]
    above = [count.score(str(found), truth) for found in range(n, 3 * n + 3)]
    assert below == sorted(below)
    assert above == sorted(above, reverse=True)
    assert below[-1] == above[0] == 1


@pytest.mark.parametrize("seed", range(20))
def test_one_more_box_than_there_are_never_pays_unless_it_fits_better(seed: int) -> None:
    """With at least as many boxes as there are, a further box that overlaps nothing costs its share."""
    rng = random.Random(seed)
    truth_boxes = tuple(random_box(rng) for _ in range(4))
    truth = Truth("boxes", "{boxes}", boxes=truth_boxes)
    found = [random_box(rng) for _ in range(4 + seed % 3)]
    before = boxes.score(write(found), truth)
    after = boxes.score(write([*found, (2000, 2000, 2100, 2100)]), truth)
    assert after == pytest.approx(before * len(found) / (len(found) + 1))


def test_a_grid_of_boxes_scores_little() -> None:
    truth = Truth("boxes", "{boxes}", boxes=((105, 205, 195, 295),))
    grid: list[Box] = [(x, y, x + 100, y + 100) for x in range(0, 1000, 100) for y in range(0, 1000, 100)]
    assert boxes.score(write(grid), truth) == pytest.approx(0.81 / 100)


def test_rewards_need_no_torch_and_no_numpy() -> None:
    code = (
        "import sys; from medvlm.rewards._compose import Composer; from medvlm.core.sample import Truth;"
        "Composer({'choice': 1, 'boxes': 1, 'count': 1, 'format': 1}).score('3', Truth('count', '3', count=3));"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def random_box(rng: random.Random) -> Box:
    x, y = rng.randint(0, 800), rng.randint(0, 800)
    return x, y, x + rng.randint(50, 200), y + rng.randint(50, 200)
