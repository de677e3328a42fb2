"""What every reward must keep: the files of the folder, and the scores of tasks."""

from __future__ import annotations

import time
from typing import Any

import pytest

from medvlm.core.config import component, kinds
from medvlm.core.contracts import Case, RewardConfig
from medvlm.core.sample import Truth, make_truth
from medvlm.rewards._config import Judge, find_reward, list_rewards

OUTSIDE = {name for name in kinds("rewards") if getattr(component("rewards", name), "WAITS", False)}
"""They ask another process, see test_outside.py."""
REWARDS = [name for name in list_rewards() if name not in OUTSIDE]
BOXES = tuple((10.0 * i, 10.0 * i, 10.0 * i + 50, 10.0 * i + 50) for i in range(20))
TRUTHS = [
    make_truth("choice", "left", choices=("left", "right", "upper left", "a")),
    make_truth("open", "right upper lobe"),
    make_truth("count", "12", count=12, label="RBC", boxes=BOXES),
    make_truth("count", "0", count=0),
    make_truth("boxes", boxes=BOXES, label="RBC"),
    make_truth("boxes"),
    make_truth("report", "Two nodules."),
]
KB_100 = 100_000
GARBAGE = {
    "empty": "",
    "blanks": " \n\t" * (KB_100 // 3),
    "unicode": "ß∂𝔸٣é\u0301\u202e\x00" * (KB_100 // 8),
    "open brackets": "[" * KB_100,
    "nested brackets": "[" * (KB_100 // 2) + "]" * (KB_100 // 2),
    "one digit": "1" * KB_100,
    "decimals": "1." * (KB_100 // 2) + "x",
    "one long box": "[" + "1, " * (KB_100 // 3) + "]",
    "very many boxes": "[10, 10, 60, 60] " * (KB_100 // 17),
    "as many boxes as are read": "[10, 10, 60, 60] " * 500,
    "a choice again and again": "left " * (KB_100 // 5),
    "number words": "one two " * (KB_100 // 8),
    "signs and stops": "-.,:/" * (KB_100 // 5),
    "inf and nan": "[nan, inf, -inf, 1e999] nan inf",
}


@pytest.mark.parametrize("name", REWARDS)
def test_examples_score_what_they_say(name: str) -> None:
    reward, config = find(name)
    for completion, truth, expected in examples_of(name):
        assert reward.applies(truth, config), (completion, truth)
        assert reward.score(completion, truth, config) == pytest.approx(expected), (completion, truth)


@pytest.mark.parametrize("name", REWARDS)
def test_examples_hold_a_full_and_an_empty_score(name: str) -> None:
    scores = [expected for _, _, expected in examples_of(name)]
    assert max(scores) == 1
    assert min(scores) == 0


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("name", REWARDS)
def test_garbage_scores_in_range_and_in_time(name: str, garbage: str) -> None:
    reward, config = find(name)
    for truth in TRUTHS:
        if reward.applies(truth, config):
            score, seconds = timed(reward, garbage, truth, config)
            assert 0 <= score <= 1, truth
            assert seconds < 0.05, truth


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_a_function_of_its_arguments(name: str) -> None:
    reward, config = find(name)
    for completion, truth, _ in examples_of(name):
        assert reward.score(completion, truth, config) == reward.score(completion, truth, config)


def find(name: str) -> tuple[Judge, RewardConfig]:
    reward = find_reward(name)
    return reward, reward.Config(weight=1, **settings_of(name))


def settings_of(name: str) -> dict[str, Any]:
    """What the examples of a reward need beside its defaults."""
    module = component("rewards", name) if name in kinds("rewards") else None
    return getattr(module, "EXAMPLE_SETTINGS", {})


def examples_of(name: str) -> list[tuple[str, Truth | Case, float]]:
    """Of a file of the folder, or of a task."""
    folder = "rewards" if name in kinds("rewards") else "tasks"
    found: list[tuple[str, Truth | Case, float]] = component(folder, name).EXAMPLES
    return found


def timed(reward: Judge, completion: str, truth: Truth, config: RewardConfig) -> tuple[float, float]:
    """The score and the processor time of the fastest of up to three tries: a busy machine slows down any one of
    them."""
    score, fastest = 0.0, float("inf")
    for _ in range(3):
        start = time.process_time()
        score = reward.score(completion, truth, config)
        fastest = min(fastest, time.process_time() - start)
        if fastest < 0.05:
            break
    return score, fastest
