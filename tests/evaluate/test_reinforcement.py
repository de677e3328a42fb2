"""Whether reinforcement helped, from planted answers: what is called so, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from medvlm.core.sample import make_truth
from medvlm.evaluate.reinforcement import AS_WELL, BEFORE, CONTROL, HELPED, NOT_SHOWN, REINFORCED, Judgement, judge
from medvlm.evaluate.saved import SavedSplit

PATIENTS, QUESTIONS = 120, 2
SETTINGS = {"dataset": "toy", "split": "test", "resamples": 200, "seed": 0}
TRUTH = make_truth("choice", "left", choices=("left", "right")).to_json()


def make_run(seed: int, right: float, looks: float = 0.9, task: str = "choice") -> list[SavedSplit]:
    """Answers of which a share is right; with another patient's image, a share of them is another one. The questions
    that are hard are the same for all runs."""
    hard = np.random.default_rng(0).random(PATIENTS * QUESTIONS)
    own = np.random.default_rng(seed + 1)
    records = []
    for number, ease in enumerate(hard):
        answer = "left" if ease + own.normal(0, 0.02) < right else "right"
        other = {"left": "right", "right": "left"}[answer]
        records.append(
            {
                "dataset": "toy",
                "split": "test",
                "key": f"test{number}",
                "cluster": number // QUESTIONS,
                "template": "side",
                "task": task,
                "question": "Which side?",
                "truth": TRUTH,
                "answer": answer,
                "shuffled": other if own.random() < looks else answer,
                "score": float(answer == "left"),
            }
        )
    return [SavedSplit(SETTINGS, {"answers": records})]


def judge_shares(
    before: float = 0.5,
    reinforced: Sequence[float] = (0.72, 0.74, 0.73),
    control: Sequence[float] = (0.51, 0.5, 0.52),
    compute: float = 1.0,
    looks: float = 0.9,
) -> Judgement:
    """The shares of right answers of each run. looks: share of answers after reinforcement that come from the image."""
    shares = {BEFORE: [before], REINFORCED: reinforced, CONTROL: control}
    arms = {
        arm: [
            make_run(100 * at + seed, share, looks if arm == REINFORCED else 0.9) for seed, share in enumerate(of_arm)
        ]
        for at, (arm, of_arm) in enumerate(shares.items())
    }
    return judge(arms, {"choice"}, compute)


GAIN = (0.72, 0.74, 0.73)
EQUAL = (0.51, 0.5, 0.52)


def test_a_gain_over_both_that_comes_from_the_images_helped() -> None:
    found = judge_shares(0.5, GAIN, EQUAL)
    assert found.verdict == HELPED and found.seeds == 3
    gap = found.find("score", REINFORCED, CONTROL)
    assert gap is not None and gap.ci is not None and 0.1 < gap.ci[0] < gap.difference < gap.ci[1] < 0.35
    assert gap.difference == pytest.approx(np.mean(gap.values) - np.mean(gap.values_against), abs=2e-6)
    assert (gap.n, gap.patients) == (PATIENTS * QUESTIONS, PATIENTS)
    assert "score: reinforced 0.6" in found.why[1] and "minus control 0.4" in found.why[1]


def test_a_control_that_gains_as_much_did_as_well_or_better() -> None:
    assert judge_shares(0.5, GAIN, (0.80, 0.81, 0.80)).verdict == AS_WELL
    assert judge_shares(0.5, EQUAL, GAIN).verdict == AS_WELL


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"reinforced": GAIN[:2], "control": EQUAL[:2]}, "2 seeds of an arm prove nothing; at least 3 are needed"),
        ({"compute": 0.8}, "the control had 80% of the compute"),
        ({"reinforced": (0.95, 0.45, 0.6)}, "the interval of the difference from the control holds 0"),
        ({"before": 0.8}, "the interval of the difference from the model before it holds 0"),
        ({"looks": 0.02}, "after reinforcement the model ignores its images"),
        ({"looks": 0.5}, "right answers depend less on the images than before"),
    ],
)
def test_what_is_not_shown(how: dict[str, Any], why: str) -> None:
    found = judge_shares(**how)
    assert found.verdict == NOT_SHOWN and why in found.why[0]


def test_a_gain_without_answers_to_other_images_is_not_shown() -> None:
    arms = {BEFORE: [make_run(0, 0.5)], REINFORCED: [make_run(s + 10, 0.73) for s in range(3)]}
    arms[CONTROL] = [make_run(s + 20, 0.5) for s in range(3)]
    for record in arms[REINFORCED][0][0].records["answers"]:
        record["shuffled"] = None
    found = judge(arms, {"choice"}, 1.0)
    assert found.verdict == NOT_SHOWN and "is not known" in found.why[0]


def test_other_tasks_are_shown_and_decide_nothing() -> None:
    arms = {BEFORE: [make_run(0, 0.5)], REINFORCED: [make_run(s + 10, 0.73) for s in range(3)]}
    arms[CONTROL] = [make_run(s + 20, 0.5) for s in range(3)]
    found = judge(arms, {"count"}, 1.0)
    assert found.verdict == NOT_SHOWN and "no question of the trained tasks" in found.why[0]
    assert found.find("score", REINFORCED, CONTROL, "choice") is not None


def test_only_questions_that_all_runs_answered_count() -> None:
    arms = {BEFORE: [make_run(0, 0.5)], REINFORCED: [make_run(s + 10, 0.73) for s in range(3)]}
    arms[CONTROL] = [make_run(s + 20, 0.5) for s in range(3)]
    del arms[CONTROL][1][0].records["answers"][:40]
    gap = judge(arms, {"choice"}, 1.0).find("score", REINFORCED, BEFORE)
    assert gap is not None and (gap.n, gap.patients) == (PATIENTS * QUESTIONS - 40, PATIENTS - 20)
