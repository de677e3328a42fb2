"""What is stored of drawn answers, and what is said of rewards from which nothing can be learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.io.images import size_of
from medvlm.report.run import draw_report
from medvlm.stages._reward_warnings import FLAT_STEPS, RewardWarnings
from medvlm.train.terms import OfSource
from tests.stages.batches import first
from tests.tiny_run import REASON, recipe, trained, written

Make = Callable[..., Any]


def test_some_answers_are_stored_and_shown_with_what_they_earned(tmp_path: Path) -> None:
    """Of the first step and every second one; with images, parts of the reward and advantages."""
    log, lora = {"every": 2, "questions": 2}, {"rank": 2}
    stage: dict[str, Any] = {**REASON, "steps": 3, "tasks": ["choice", "boxes"], "lora": lora, "rollout_log": log}
    stage["rewards"] = {"medvlm.preflight.rehearsal.fake_reward": 1.0, "format": 0.5, "boxes": 1.0}
    run = trained(written(tmp_path, recipe(stages=[stage], plugins=["medvlm"])), tmp_path / "runs")
    folder = run.stage("reason") / "rollouts"
    assert sorted(path.name for path in folder.glob("*.jsonl")) == ["step-1.jsonl", "step-2.jsonl"]
    lines = [json.loads(line) for line in (folder / "step-2.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * stage["group"] and len({line["key"] for line in lines}) == 2
    for line in lines:
        assert line["truth"]["task"] == line["task"] and {"format"} < line["rewards"].keys()
        assert 0 < line["score"] <= 1 and line["tokens"] <= stage["max_new_tokens"]
        assert size_of((run.stage("reason") / line["thumb"]).read_bytes(), "0.png") == (32, 32)
        assert (line["scale"] is not None) == (line["task"] == "boxes")
    for key in {line["key"] for line in lines}:
        group = [line for line in lines if line["key"] == key]
        assert sum(line["advantage"] for line in group) == pytest.approx(0, abs=1e-5)
        best = max(group, key=lambda line: line["score"])
        assert best["advantage"] == max(line["advantage"] for line in group)
    page = draw_report(run, tmp_path / "report.html").read_text()
    assert "reason, step 1" in page and "reason, step 2" in page and "advantage" in page
    assert str(lines[0]["question"]) in page and "data:image/png;base64" in page


def test_nothing_is_stored_where_no_text_may_be(tmp_path: Path) -> None:
    stage = {**REASON, "steps": 1, "lora": {"rank": 2}, "rollout_log": {"every": 0}}
    stage["rewards"] = {"medvlm.preflight.rehearsal.fake_reward": 1.0}
    run = trained(written(tmp_path, recipe(stages=[stage], plugins=["medvlm"])), tmp_path / "runs")
    assert not (run.stage("reason") / "rollouts").exists()
    assert "Drawn answers" not in draw_report(RunFolder(run.root), tmp_path / "report.html").read_text()


def test_numbers_are_told_for_each_source_and_task(stage_of: Make) -> None:
    stage = stage_of("grpo", batch=16, kl=0.1)
    stage.begin()
    (rollout,) = stage.make_micros(first(stage), 1)
    terms = stage.compute_loss(stage.model, rollout, 0)
    tasks = {prompt.truth.task for prompt in rollout.drawn.prompts}
    assert tasks == {"choice", "count"}
    for what in ("reward", "answer_tokens", "cut", "entropy", "kl"):
        own = [terms[OfSource("films", f"{task}/{what}")] for task in sorted(tasks)]
        whole = terms[what]
        assert sum(term.sum for term in own) == pytest.approx(whole.sum, rel=1e-4, abs=1e-6), what
        assert sum(term.weight for term in own) == whole.weight, what
    assert sum(terms[OfSource("films", f"{task}/spread")].weight for task in tasks) == len(rollout.drawn.prompts)


def test_rewards_that_ignore_the_answer_are_named_and_end_a_stage_that_has_no_others(
    stage_of: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    paid = {"tests.stages.constant_reward": 1.0}
    alone = stage_of("grpo", "plugins=[tests]", rewards=paid)
    with pytest.raises(RecipeError, match=r"constant_reward paid the same .* so nothing can be learned"):
        alone.make_micros(first(alone), 1)
    stage = stage_of("grpo", "plugins=[tests]", rewards={**paid, "choice": 1.0, "count": 1.0, "tags": 1.0})
    prompts = first(stage)
    for _ in range(2):
        stage.make_micros(prompts, 1)
    said = capsys.readouterr().err
    assert said.count("rewards: tests.stages.constant_reward paid the same") == 1, "once, and no reward of a form"


def test_steps_without_any_advantage_are_warned_of(stage_of: Make, capsys: pytest.CaptureFixture[str]) -> None:
    warnings = RewardWarnings("reason", stage_of("grpo").engine)
    for has_advantage in [False] * (FLAT_STEPS - 1) + [True] + [False] * (FLAT_STEPS + 5):
        warnings.note_spread(has_advantage)
    said = capsys.readouterr().err
    assert said.count("all answers to a question earned the same") == 1


def test_grounding_is_measured_against_blank_images(stage_of: Make) -> None:
    """The gain of an answer is the mean difference of its log-probabilities, from two passes of the stock model."""
    stage = stage_of("grpo", rewards={"grounded": 1.0, "choice": 1.0, "count": 1.0})
    prompts = first(stage)
    drawn = stage.drawer._draw(prompts)
    gains = stage.policy.compute_image_gain(prompts, drawn.groups)
    batch = stage.policy.collate(prompts, drawn.groups)
    own_L = stage.policy.compute_answers(stage.model, batch).detach()
    batch.media["film"] = torch.ones_like(batch.media["film"])
    blank_L = stage.policy.compute_answers(stage.model, batch).detach()
    expected = [float(x.mean()) for x in (own_L - blank_L).split([len(a.ids) for a in drawn.answers])]
    assert gains == pytest.approx(expected, abs=1e-5) and any(abs(gain) > 1e-6 for gain in gains)
    paid = [parts["grounded"] for group in drawn.scored for _, parts in group]
    assert paid == pytest.approx([1 - 2.718281828 ** -max(0.0, g) for g in gains], abs=1e-5)
