"""Which validation is the best one."""

from __future__ import annotations

import math

import pytest

from medvlm.train.loop import State

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("losses", "best_step", "worse"),
    [
        ([1.5, 1.2, 1.3], 2, 1),
        ([1.5, NAN, 1.8], 1, 2),
        ([NAN, NAN], 0, 2),
        ([NAN, 2.0], 2, 0),
        ([INF, 2.0, INF], 2, 1),
        ([1.0, 1.0], 1, 1),
        ([-INF, 1.0], 1, 1),
    ],
)
def test_the_best_validation_has_the_smallest_loss_that_is_a_number(
    losses: list[float], best_step: int, worse: int
) -> None:
    state = State("identity")
    for step, loss in enumerate(losses, 1):
        state.step = step
        assert state.note_validation(loss) == (state.best_step == step)
    assert (state.best_step, state.worse) == (best_step, worse)
    assert state.best_loss == (losses[best_step - 1] if best_step else None)
