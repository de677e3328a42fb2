"""No attempt to cheat earns more than an honest wrong answer, for every kind of answer and the rewards that a recipe
would combine for it.

Each case has right answers, honest wrong ones (of the form that is asked for, about something else), and attempts to be
paid without knowing the answer. No two attempts of a case are of the same kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from medvlm.core.contracts import Case
from medvlm.core.sample import Truth, make_truth
from medvlm.rewards._compose import Composer


@dataclass(frozen=True)
class Kind:
    rewards: dict[str, Any]
    about: Truth | Case
    right: list[str]
    wrong: list[str]
    cheats: list[str]


SIDE = make_truth("choice", "left", choices=("left", "right"))
ONE = make_truth("boxes", boxes=((400, 400, 500, 500),))
NONE = make_truth("boxes")
FOUR = make_truth("count", count=4)
SICK = make_truth(
    "report",
    "Findings: There is a left pleural effusion. Impression: The heart is enlarged.",
    findings="english_chest_radiograph",
)
STEPS = Case(
    SIDE,
    {
        "finding": "There is a dense opacity in the left lower lobe.",
        "meaning": "The opacity with air bronchograms suggests pneumonia.",
    },
)
GRID = ", ".join(f"[{x}, {y}, {x + 100}, {y + 100}]" for x in range(0, 1000, 100) for y in range(0, 1000, 100))
MEDMO = {"giou": 0.9, "format": 0.1}
THOUGHT = {"gate": {"weight": 1, "when": {"tags": 1}, "pay": {"inside": {"weight": 1, "pay": {"choice": 1}}}}}
REPORT = {
    "report_findings": 2,
    "gate": {
        "weight": 1,
        "when": {"length": {"weight": 1, "least": 8, "most": 60}},
        "pay": {"product": {"weight": 1, "of": {"structure": 1, "report_findings": 1}}},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer"}},
    "required": ["count"],
    "additionalProperties": False,
}

KINDS = {
    "a choice": Kind(
        {"choice": 0.9, "format": 0.1}, SIDE,
        ["left"], ["right"],
        ["left or right", "one side: left, right", "", "the side", "left " * 50],
    ),
    "a choice in tags": Kind(
        THOUGHT, SIDE,
        ["<think>The opacity is there.</think><answer>left</answer>"],
        ["<think>The opacity is there.</think><answer>right</answer>"],
        [
            "<think>left</think><answer>left</answer><answer>right</answer>",
            "<think>left right</think><answer>left or right</answer>",
            "left", "<answer>left</answer>", "<think></think><answer>left</answer>",
        ],
    ),
    "a box, by GIoU": Kind(
        MEDMO, ONE,
        ["[400, 400, 500, 500]"], ["[450, 400, 550, 500]", "[700, 400, 800, 500]"],
        ["[0, 0, 1000, 1000]", GRID, "[500, 500, 400, 400]", "none", "[1, 1, 2, 2]"],
    ),
    "a box, by CIoU": Kind(
        {"ciou": 1}, ONE,
        ["[400, 400, 500, 500]"], ["[450, 400, 550, 500]", "[700, 400, 800, 500]"],
        ["[0, 0, 1000, 1000]", GRID, "[350, 350, 2000, 2000]", "none", "box"],
    ),
    "no box": Kind(
        {"giou": 1}, NONE,
        ["none"], ["[400, 400, 500, 500]"],
        ["none, [400, 400, 500, 500]", GRID, "", "[500, 500, 400, 400]"],
    ),
    "a count in JSON": Kind(
        {"gate": {"weight": 1, "when": {"json_schema": {"weight": 1, "schema": SCHEMA}}, "pay": {"count": 1}}}, FOUR,
        ['{"count": 4}'], ['{"count": 5}'],
        ['{"count": 4} {"count": 5}', '{"count": 4, "or": 5}', '{"count": 4, "count": 9}', "1 2 3 4 5"],
    ),
    "a report": Kind(
        REPORT, SICK,
        ["Findings: There is a left pleural effusion. Impression: The heart is enlarged, as before."],
        ["Findings: The lungs are clear, without an effusion. Impression: The heart is of normal size."],
        [
            "Findings:\nImpression:", "", "effusion " * 30,
            "Findings: clear clear clear clear clear\nImpression: clear clear clear clear clear",
            "Findings: the patient is in bed as usual. Impression: the patient is in bed as usual.",
        ],
    ),
    "steps": Kind(
        {"process": 1}, STEPS,
        ["A dense opacity in the left lower lobe. The opacity with air bronchograms suggests pneumonia. Left."],
        ["There is a fracture of the third rib. Left."],
        ["", "opacity opacity opacity", "finding. meaning.", "There is no dense opacity in the left lower lobe. Left."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_no_attempt_to_cheat_earns_more_than_an_honest_wrong_answer(kind: Kind) -> None:
    composer = Composer(kind.rewards)
    right, wrong, cheats = (
        {text: composer.score(text, kind.about)[0] for text in texts} for texts in (kind.right, kind.wrong, kind.cheats)
    )
    assert min(right.values()) == pytest.approx(1) and max(wrong.values()) < min(right.values())
    assert len(cheats) >= 3
    for text, score in cheats.items():
        assert score <= min(wrong.values()) + 1e-9, (text[:60], score, wrong)
