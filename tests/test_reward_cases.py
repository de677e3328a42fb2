"""`medvlm tasks test FILE`: the cases of a user."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvlm.cli import main

CASES = """
rewards: {choice: 0.9, format: 0.1}
cases:
  - {answer: left, truth: &side {task: choice, answer: left, choices: [left, right]}, score: 1, is: right}
  - {answer: It is left., truth: *side, score: 0.9}
  - {answer: right, truth: *side, is: wrong}
  - {answer: left or right, truth: *side, is: cheat}
"""


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def call(text: str) -> tuple[int, str]:
        (tmp_path / "cases.yaml").write_text(text)
        code = main(["tasks", "test", str(tmp_path / "cases.yaml")])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_cases_that_hold_are_shown_with_their_parts(run) -> None:
    code, said = run(CASES)
    assert code == 0 and "cases.yaml:4:5 'left': 1 (choice 1, format 1) ok" in said and said.count(" ok") == 4


def test_cases_that_do_not_hold_are_named(run) -> None:
    code, said = run(CASES.replace("score: 0.9", "score: 1").replace("left or right", "maybe right"))
    assert code == 2 and "cases.yaml:5:5 'It is left.': 0.9 (choice 1, format 0) FAILED expected 1" in said
    assert "1 of 4 cases are not as expected" in said
    code, said = run(CASES.replace("format: 0.1", "length: {weight: 0.1, least: 3, most: 3}"))
    assert code == 2 and "a cheat earns more than an honest wrong answer (0.0333333)" in said


def test_without_rewards_the_task_itself_is_tested(run) -> None:
    code, said = run("cases: [{answer: four, truth: {task: count, answer: '4', count: 4}, score: 1}]")
    assert code == 0 and "(count 1)" in said


@pytest.mark.parametrize(("text", "message"), [
    ("cases: []", "cases"),
    ("cases: [{answer: a, truth: {task: choice}}]", "expected `score`, or `is`"),
    ("cases: [{answer: a, truth: {task: chioce}, score: 1}]", "there is no task 'chioce'"),
    ("rewards: {chioce: 1}\ncases: [{answer: a, truth: {task: open}, score: 1}]", "did you mean 'choice'"),
    ("rewards: {choice: 1}\ncases: [{answer: a, truth: {task: open}, score: 1}]", "none of choice can judge it"),
])  # fmt: skip
def test_what_cannot_be_tested_is_refused(run, text: str, message: str) -> None:
    code, said = run(text)
    assert code == 2 and message in said and "cases.yaml" in said
