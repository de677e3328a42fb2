"""A stage with rewards stops if the model that learns is not the one that drew the answers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.errors import RolloutMismatch
from medvlm.stages._policy_check import EVERY, FIRST, LIMIT, LIMIT_16_BIT, PolicyCheck
from tests.stages.batches import first

Make = Callable[..., Any]


def learn(stage: Any) -> None:
    """One step: draws answers, and computes the loss of them."""
    for micro in stage.make_micros(first(stage), 1):
        stage.compute_loss(stage.model, micro, 0)


def test_answers_are_worth_the_same_when_they_are_learned_from(stage_of: Make) -> None:
    """Drawn token by token with a cache, and read as a whole."""
    stage = stage_of("grpo")
    (micro,) = stage.make_micros(first(stage), 1)
    log_L, _ = stage.policy.compute_log_probability(stage.model, micro.batch)
    checked = [value for answer in micro.drawn.answers for value in answer.checked]
    assert log_L.tolist() == pytest.approx(checked, abs=1e-4)
    learn(stage)


def test_images_that_are_dropped_between_drawing_and_learning_stop_it(stage_of: Make) -> None:
    """Without a single image the check of images has nothing to compare."""
    stage = stage_of("grpo")
    collate = stage.policy.collate

    def drop(prompts: Any, answers: Any) -> Any:
        bare = [replace(p, document=replace(p.document, prefix=p.document.prefix[-3:], media=[])) for p in prompts]
        return collate(bare, answers)

    stage.policy.collate = drop
    with pytest.raises(RolloutMismatch, match=r"stages\.reason: the answers to .* were drawn by another model"):
        learn(stage)


def test_answers_of_old_weights_stop_it(stage_of: Make) -> None:
    stage = stage_of("grpo")
    stage.rollouts.parts = replace(stage.rollouts.parts, model=deepcopy(stage.model))
    learn(stage)  # nothing has changed yet
    with torch.no_grad():
        for parameter in stage.model.language.parameters():
            parameter.mul_(1.2)
    with pytest.raises(RolloutMismatch, match="check that the rollout engine has the current weights"):
        learn(stage)


def test_the_first_draws_are_checked_and_then_every_hundredth() -> None:
    check = PolicyCheck("s", nn.Linear(2, 2), "32-true")
    due = [number for number in range(3 * EVERY) if check.is_due()]
    assert due == [*range(FIRST), EVERY, 2 * EVERY]
    assert check.limit == LIMIT
    assert PolicyCheck("s", nn.Linear(2, 2), "bf16-mixed").limit == LIMIT_16_BIT
    assert PolicyCheck("s", nn.Linear(2, 2).bfloat16(), "32-true").limit == LIMIT_16_BIT
