"""Whether there is anything to mark, from the pixels of a mask."""

from __future__ import annotations

import math

import pytest
import torch

from medvlm.core.decoder_config import MISSING
from medvlm.objectives.presence import add_up_presence, count_known, find_presence, hide_absent

LABELS = torch.tensor(
    [[0, 1, 0], [0, 0, 0], [0, MISSING, 0], [1, MISSING, 0], [MISSING, MISSING, MISSING]], dtype=torch.long
).view(5, 1, 1, 3)
"""Marked, empty, perhaps marked where nobody looked, marked anyway, and unknown."""


def test_what_nobody_annotated_may_be_marked() -> None:
    assert find_presence(LABELS)[:, 0].tolist() == [1, 0, MISSING, 1, MISSING]
    assert count_known(LABELS) == 3


def test_masks_are_learnt_only_where_something_is_marked() -> None:
    kept = hide_absent(LABELS)
    assert torch.equal(kept[[0, 3]], LABELS[[0, 3]]) and (kept[[1, 2, 4]] == MISSING).all()


def test_the_loss_is_the_cross_entropy_of_what_is_known_and_its_gradient_the_error() -> None:
    logits = torch.tensor([[0.5], [1.0], [9.0], [-2.0], [-9.0]], requires_grad=True)
    total, right = add_up_presence(logits, LABELS)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.5, 1.0, -2.0)]
    assert total.item() == pytest.approx(
        -math.log(sigmoid[0]) - math.log(1 - sigmoid[1]) - math.log(sigmoid[2]), rel=1e-6
    )
    assert right == 1, "the first alone"
    (gradient,) = torch.autograd.grad(total, logits)
    expected = [sigmoid[0] - 1, sigmoid[1], 0, sigmoid[2] - 1, 0]
    assert gradient[:, 0].tolist() == pytest.approx(expected, abs=1e-6)
