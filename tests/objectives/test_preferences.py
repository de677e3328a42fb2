"""Objectives for preferences against the formulas of TRL (`sigmoid` and `sigmoid_norm` of its DPOTrainer, `simpo` of
its CPOTrainer), written down here token by token: losses and gradients on equal tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import logsigmoid

from medvlm.core.config import component, kinds
from medvlm.objectives.policy import sum_answers
from medvlm.objectives.preferences._contract import SLOT, PairScores

N, T = 5, 7
LENGTHS = torch.tensor([[3, 7], [5, 2], [1, 4], [6, 6], [7, 1]])
MASK = torch.arange(T) < LENGTHS[:, :, None]


def make_tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """[N, 2, T] log-probabilities of tokens under the model and the reference, padded."""
    rng = torch.Generator().manual_seed(1)
    log, reference = (-2 * torch.rand(N, 2, T, generator=rng, dtype=torch.float64) for _ in range(2))
    return log.requires_grad_(), reference


def ours(kind: str, log: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    module = component(SLOT, kind)
    added = [sum_answers(x[MASK], LENGTHS.flatten()).view(N, 2) for x in (log, reference)]
    scores = PairScores(added[0], added[1] if module.NEEDS_REFERENCE else None, LENGTHS)
    return -logsigmoid(module.find_margins(module.Config(kind=kind), scores))


def dpo(log: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """TRL: -logsigmoid(beta * delta_score), beta 0.1."""
    gains = ((log - reference) * MASK).sum(-1)
    return -logsigmoid(0.1 * (gains[:, 0] - gains[:, 1]))


def dpo_per_token(log: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """TRL: chosen_scores / chosen_mask.sum() - rejected_scores / rejected_mask.sum(), here with the beta of Tulu 3."""
    average = ((log - reference) * MASK).sum(-1) / MASK.sum(-1)
    return -logsigmoid(5.0 * (average[:, 0] - average[:, 1]))


def simpo(log: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """TRL: -logsigmoid(beta * (average_chosen - average_rejected - gamma / beta))."""
    average = (log * MASK).sum(-1) / MASK.sum(-1)
    return -logsigmoid(2.0 * (average[:, 0] - average[:, 1] - 1.0 / 2.0))


FORMULAS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "dpo": dpo,
    "dpo_per_token": dpo_per_token,
    "simpo": simpo,
}


@pytest.mark.parametrize("kind", kinds(SLOT))
def test_loss_and_gradient_are_those_of_trl(kind: str) -> None:
    log, reference = make_tokens()
    found, expected = ours(kind, log, reference), FORMULAS[kind](log, reference)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    gradient, other = (torch.autograd.grad(loss.sum(), log, retain_graph=True)[0] for loss in (found, expected))
    torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-14)
    assert gradient[:, 0][MASK[:, 0]].max() < 0 < gradient[:, 1][MASK[:, 1]].min()


@pytest.mark.parametrize("kind", [kind for kind in kinds(SLOT) if component(SLOT, kind).NEEDS_REFERENCE])
def test_a_model_that_has_not_moved_loses_log_two(kind: str) -> None:
    _, reference = make_tokens()
    assert ours(kind, reference, reference).tolist() == pytest.approx([0.6931471805599453] * N)
