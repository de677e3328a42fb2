"""A stage stops if its images do not affect the loss, and continues if they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medvlm.core.errors import ImageNotUsed
from medvlm.models.parts import set_trained
from medvlm.stages._image_check import GRACE, uses_images
from tests.stages.batches import first

Make = Callable[..., Any]


def blind(stage: Any) -> Any:
    """As if pixels were dropped: whatever is shown, the same comes out of the tower."""
    tower = stage.model.encoders["film"]
    forward = tower.forward
    tower.forward = lambda pixels: forward(torch.zeros_like(pixels))
    return stage


@pytest.mark.parametrize("kind", ["supervised", "grpo"])
def test_images_that_are_lost_stop_the_stage(stage_of: Make, kind: str) -> None:
    stage = blind(stage_of(kind))
    set_trained(stage.model, ("lora",), "s")
    (micro,) = stage.make_micros(first(stage), 1)
    with pytest.raises(
        ImageNotUsed, match=rf"stages\.{stage.config.name}: the answers to .* as probable with a blank image"
    ):
        stage.compute_loss(stage.model, micro, 0)


@pytest.mark.parametrize("kind", ["supervised", "grpo"])
def test_images_that_are_seen_do_not(stage_of: Make, kind: str) -> None:
    stage = stage_of(kind)
    (micro,) = stage.make_micros(first(stage), 1)
    stage.compute_loss(stage.model, micro, 0)
    assert uses_images(stage.model, micro.batch if kind == "grpo" else micro)


def test_a_connector_that_is_trained_from_zero_is_given_a_few_steps(stage_of: Make) -> None:
    stage = blind(stage_of("supervised"))
    (micro,) = stage.make_micros(first(stage), 1)
    for _ in range(GRACE):
        stage.compute_loss(stage.model, micro, 0)
    with pytest.raises(ImageNotUsed):
        stage.compute_loss(stage.model, micro, 0)


def test_it_leaves_modes_and_random_state_alone(stage_of: Make) -> None:
    stage = stage_of("supervised")
    modes, state = [m.training for m in stage.model.modules()], torch.random.get_rng_state()
    (micro,) = stage.make_micros(first(stage), 1)
    stage.image_check.look(stage.model, micro)
    assert [m.training for m in stage.model.modules()] == modes and torch.equal(torch.random.get_rng_state(), state)
