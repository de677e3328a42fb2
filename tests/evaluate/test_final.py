"""Thoughts before an answer are not scored: every row of a model that thinks aloud is that of one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.ask import Ask, CutAnswer
from medvlm.core.sample import make_truth
from medvlm.evaluate.compare import compare
from medvlm.evaluate.protocols._final import find_final
from medvlm.evaluate.saved import read_saved
from medvlm.scoring import medevalkit
from tests.evaluate.toy import Noisy, evaluate_toy, write_shards

SIDE = make_truth("choice", "left", choices=("left", "right"))
THOUGHT = "<think>Neither right, nor the liver: 7 nodules.</think>"


@pytest.mark.parametrize(
    ("said", "final"),
    [
        (f"{THOUGHT}<answer>left</answer>", "left"),
        (f"{THOUGHT}\n\n<answer>\nleft\n</answer>\n", "left"),
        ("<answer>left</answer>", "left"),
        ("I see nothing on the right. <Answer>left</Answer>", "left"),
        (f"{THOUGHT}\nleft", "left"),
        ("so it is right</think>left", "left"),  # a template that opens the tag itself
        ("<think>\u0130</Think>left", "left"),  # a letter that is longer in lower case
        ("<think>left</think>", ""),
        ("<answer></answer>left", ""),
        # Two answers, and tags that are not closed or in the wrong order, are read as they are.
        ("<answer>left</answer><answer>right</answer>", "<answer>left</answer><answer>right</answer>"),
        ("<think>a</think>left<think>b</think>right", "<think>a</think>left<think>b</think>right"),
        ("<answer>left", "<answer>left"),
        ("</answer>left<answer>", "</answer>left<answer>"),
        ("left", "left"),
        (CutAnswer(f"{THOUGHT}left"), f"{THOUGHT}left"),
    ],
)
def test_what_stands_behind_the_thoughts_is_the_answer(said: str, final: str) -> None:
    assert find_final(said, SIDE) == final


def test_a_task_that_scores_the_steps_reads_them() -> None:
    truth = make_truth("stepwise", steps=("It is a film.",), final="yes")
    said = "<think>It is a film.</think><answer>yes</answer>"
    assert find_final(said, truth) == said and find_final([0.5], SIDE) == [0.5]


class Thinking(Noisy):
    """Says what the other one says, behind thoughts in which other answers stand."""

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        return [f"{THOUGHT}<answer>{said}</answer>" for said in super().answer(asks)]


def test_every_row_is_that_of_a_model_that_does_not_think_aloud(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", {"train": 12, "test": 24})
    settings: dict[str, Any] = {"rewards": {"choice": 1, "tags": 1}, "scoring": [medevalkit.Config(kind="medevalkit")]}
    plain, aloud = (
        {(row["task"], row["metric"]): row for row in evaluate_toy(model(), shards, tmp_path / name, **settings)}
        for model, name in ((Noisy, "plain"), (Thinking, "aloud"))
    )
    assert plain.keys() == aloud.keys() and ("vqa", "accuracy") in plain
    unlike = {
        key for key, row in plain.items() if any(row[of] != aloud[key][of] for of in ("value", "ci", "baselines"))
    }
    assert unlike == {("reward", "total"), ("reward", "choice"), ("reward", "tags")}, "rewards read the whole text"
    records = [
        record
        for saved in read_saved(tmp_path / "aloud" / "evaluate")
        for record in saved.records["answers"]
        if record["template"] == "side"
    ]
    assert all("<" not in record["answer"] and record["said"]["answer"].startswith(THOUGHT) for record in records)
    found = compare({name: [tmp_path / name / "evaluate"] for name in ("plain", "aloud")})
    assert {each.difference for each in found if each.metric == "accuracy"} == {0}
