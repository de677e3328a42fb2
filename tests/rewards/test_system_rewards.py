"""The rewards that make a published system, as its recipe sets them: without one, answers gain and lose otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medvlm.core.contracts import Case
from medvlm.core.sample import Truth, make_truth
from medvlm.recipe.load import load
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import dump_rewards

SIDE = make_truth("choice", "left", choices=("left", "right"))
BOX = make_truth("boxes", boxes=((400, 400, 500, 500),))
REPORT = make_truth(
    "report", "Findings: There is a left pleural effusion. Impression: The heart is enlarged.",
    findings="english_chest_radiograph",
)  # fmt: skip
ORGAN = make_truth("open", "liver")
MARKED, UNMARKED = Case(SIDE, calls=1), Case(SIDE, calls=0)
Rewards = dict[str, Any]
Off = Callable[[Rewards], Rewards]


def without(*names: str) -> Off:
    return lambda rewards: {name: each for name, each in rewards.items() if name not in names}


def plain(rewards: Rewards) -> Rewards:
    """What stands in a tag is paid as if it was all of the answer."""
    return {**without("inside")(rewards), **rewards["inside"]["pay"]}


LESION = Case(
    make_truth("measure", values=(40.0, 20.0)),
    {"major": "(0.1, 0.2), (0.5, 0.2)", "minor": "(0.3, 0.1), (0.3, 0.3)"},
)
RIGHT = "<step-1-answer>(0.1, 0.2), (0.5, 0.2)</step-1-answer><step-2-answer>(0.3, 0.1), (0.3, 0.3)</step-2-answer>"
ASTRAY = "<step-1-answer>(0.9, 0.9), (0.8, 0.1)</step-1-answer><step-2-answer>(0.0, 0.9), (0.9, 0.9)</step-2-answer>"
MEASURED = [f"{steps}<answer>{said}</answer>" for steps in (RIGHT, ASTRAY) for said in ("40, 20", "10, 5")]
CT = make_truth(
    "findings", findings=("Atelectasis",), entries=(("Atelectasis", (), ()), ("Emphysema", (), ())),
    nothing=("No Chest Finding",),
)  # fmt: skip
LONG = " ".join(f"word{number}" for number in range(200))
REPORTS = [
    f"FINDINGS: as seen here {LONG}\nPleura: no effusion\nIMPRESSION: some collapse\n<answer>Atelectasis</answer>",
    f"{LONG}<answer>Atelectasis</answer>",
    "<answer>Atelectasis</answer>",
    f"{LONG}<answer>Emphysema</answer>",
]


def add(rewards: Rewards) -> Rewards:
    """The answer is paid whatever the steps."""
    return {**without("right")(rewards), "answer": rewards["right"]["of"]["answer"]}


SWITCHES: list[tuple[str, Off, Truth | Case, list[str]]] = [
    # recipe, the switch, what is asked, and answers
    ("medmo", without("giou"), BOX, ["[450, 400, 550, 500]", "[400, 400, 500, 500]", "[600, 400, 700, 500]", "none"]),
    ("medmo", without("report_findings"), REPORT, ["Left pleural effusion. Enlarged heart.", "Clear lungs."]),
    ("medmo", without("choice"), SIDE, ["left", "right", "on the left"]),
    ("fleming_vl", without("tags"), SIDE, ["<think>Dense.</think><answer>left</answer>", "<answer>left</answer>"]),
    ("fleming_vl", plain, SIDE, ["<think>right?</think><answer>left</answer>", "left", "<answer>right</answer>"]),
    ("medvision", add, LESION, MEASURED),
    ("medvision", without("form"), LESION, [*MEASURED, "40, 20", "<answer>40, 20</answer>"]),
    ("nv_reason_ct", without("inside"), CT, REPORTS),
    ("nv_reason_ct", without("headings"), CT, REPORTS),
    ("nv_reason_ct", without("length"), CT, REPORTS),
    ("fleming_vl", plain, ORGAN, ["<think>A spleen?</think><answer>liver</answer>", "liver"]),
]


@pytest.mark.parametrize(("system", "off", "asked", "answers"), SWITCHES)
def test_without_its_reward_other_answers_gain(system: str, off: Off, asked: Truth | Case, answers: list[str]) -> None:
    stage = next(stage for stage in load(f"systems/{system}.yaml").recipe.stages if stage.list_rewards())
    rewards = dump_rewards(stage.rewards)
    less = off(rewards)
    assert less != rewards, "it is off already"
    whole = find_advantages(rewards, asked, answers)
    assert whole.abs().max() > 0.1, "the answers all earn the same"
    assert not less or not torch.allclose(whole, find_advantages(less, asked, answers), atol=1e-3)


def find_advantages(rewards: Rewards, asked: Truth | Case, answers: list[str]) -> torch.Tensor:
    """As in GRPO; zeros where nothing can judge the answers."""
    composer = Composer(rewards)
    if not composer.applies(asked):
        return torch.zeros(len(answers))
    earned = torch.tensor([composer.score(answer, asked)[0] for answer in answers])
    return (earned - earned.mean()) / (earned.std() + 1e-6)


@pytest.mark.parametrize("system", ["vitar", "retrieval"])
def test_a_look_is_paid_beside_the_answer(system: str) -> None:
    """A right answer without a call, and a wrong one with it: only the call tells the wrong ones apart."""
    rewards = dump_rewards(load(f"systems/{system}.yaml").recipe.stages[-1].rewards)
    group = [("left", MARKED), ("left", UNMARKED), ("right", MARKED), ("right", UNMARKED)]
    whole, less = (
        [Composer(each).score(answer, case)[0] for answer, case in group]
        for each in (rewards, without("calls")(rewards))
    )
    assert whole[0] > whole[1] > whole[2] > whole[3] and less[0] == less[1] > less[2] == less[3]
