"""What every reward must keep, for each file of the folder."""

from __future__ import annotations

import time
from types import ModuleType

import pytest

from medvlm.core.config import component, kinds
from medvlm.core.sample import Truth

REWARDS = [component("rewards", name) for name in kinds("rewards")]
BOXES = tuple((10.0 * i, 10.0 * i, 10.0 * i + 50, 10.0 * i + 50) for i in range(20))
TRUTHS = [
    Truth("choice", "left", choices=("left", "right", "upper left", "a")),
    Truth("open", "right upper lobe"),
    Truth("count", "12", count=12, label="RBC", boxes=BOXES),
    Truth("count", "0", count=0),
    Truth("boxes", "{boxes}", boxes=BOXES, label="RBC"),
    Truth("boxes", "{boxes}"),
    Truth("report", "Two nodules."),
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


@pytest.mark.parametrize("reward", REWARDS, ids=lambda r: r.__name__)
def test_examples_score_what_they_say(reward: ModuleType) -> None:
    for completion, truth, expected in reward.EXAMPLES:
        assert reward.applies(truth), (completion, truth)
        assert reward.score(completion, truth) == pytest.approx(expected), (completion, truth)


@pytest.mark.parametrize("reward", REWARDS, ids=lambda r: r.__name__)
def test_examples_hold_a_full_and_an_empty_score(reward: ModuleType) -> None:
    scores = [expected for _, _, expected in reward.EXAMPLES]
    assert max(scores) == 1
    assert min(scores) == 0


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("reward", REWARDS, ids=lambda r: r.__name__)
def test_garbage_scores_in_range_and_in_time(reward: ModuleType, garbage: str) -> None:
    for truth in TRUTHS:
        if reward.applies(truth):
            score, seconds = timed(reward, garbage, truth)
            assert 0 <= score <= 1, truth
            assert seconds < 0.05, truth


@pytest.mark.parametrize("reward", REWARDS, ids=lambda r: r.__name__)
def test_a_reward_is_a_function_of_its_arguments(reward: ModuleType) -> None:
    for completion, truth, _ in reward.EXAMPLES:
        assert reward.score(completion, truth) == reward.score(completion, truth)


def timed(reward: ModuleType, completion: str, truth: Truth) -> tuple[float, float]:
    """The score and the processor time of the fastest of up to three tries: a busy machine slows down any one of
    them."""
    score, fastest = 0.0, float("inf")
    for _ in range(3):
        start = time.process_time()
        score = reward.score(completion, truth)
        fastest = min(fastest, time.process_time() - start)
        if fastest < 0.05:
            break
    return score, fastest
