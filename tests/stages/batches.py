"""Functions that several tests of stages share."""

from __future__ import annotations

from typing import Any

import torch

from medvlm.train.terms import LOSS, sum_of_losses


def first(stage: Any, consumed: int = 0) -> list[Any]:
    """The prepared samples of the step that begins at this position."""
    batches = stage.read_batches(consumed)
    position, prepared = next(batches)
    assert position == consumed
    batches.close()
    return prepared  # type: ignore[no-any-return]


def loss_of(stage: Any, micro: Any) -> torch.Tensor:
    """The summed loss of a micro-batch in the first step."""
    return sum_of_losses(stage.compute_loss(stage.model, micro, 0))


def weight_of(stage: Any, micro: Any) -> float:
    return float(stage.weigh(micro)[LOSS])
