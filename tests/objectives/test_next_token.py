"""Cross entropy and log-probabilities of the tokens that are trained."""

from __future__ import annotations

import math

import pytest
import torch

from medvlm.objectives.next_token import answer_losses, log_probability, token_losses

LOGITS = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 10, 3, 3, 7, 1, 5])


def test_the_loss_is_the_sum_of_surprises_in_nats() -> None:
    rows = LOGITS.double().tolist()
    expected = sum(
        math.log(sum(math.exp(x) for x in row)) - row[t] for row, t in zip(rows, TARGETS.tolist(), strict=True)
    )
    assert token_losses(LOGITS, TARGETS).sum().item() == pytest.approx(expected, rel=1e-6)


def test_its_gradient_is_the_softmax_less_the_target() -> None:
    """Every token pulls alike, however many there are: the sum is divided later, by the tokens of all ranks."""
    logits = LOGITS.clone().requires_grad_()
    token_losses(logits, TARGETS).sum().backward()
    expected = LOGITS.double().softmax(-1)
    expected[torch.arange(7), TARGETS] -= 1
    torch.testing.assert_close(logits.grad, expected.float(), rtol=1e-5, atol=1e-6)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(3000, 4, dtype=torch.bfloat16)
    loss = token_losses(logits, torch.zeros(3000, dtype=torch.long)).sum()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(3000 * math.log(4), rel=1e-5)


def test_nothing_to_train_costs_nothing() -> None:
    logits = torch.zeros(0, 11, requires_grad=True)
    loss = token_losses(logits, torch.zeros(0, dtype=torch.long)).sum()
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None


def test_by_answer_a_short_answer_weighs_as_much_as_a_long_one() -> None:
    """Three answers of 1, 4 and 2 tokens: the sum of their means, forward and gradient."""
    answers, logits, plain = (
        torch.tensor([0, 1, 1, 1, 1, 2, 2]),
        LOGITS.clone().requires_grad_(),
        LOGITS.double().requires_grad_(),
    )
    loss = answer_losses(token_losses(logits, TARGETS), answers).sum()
    surprise = -plain.log_softmax(-1)[torch.arange(7), TARGETS]
    expected = surprise[:1].mean() + surprise[1:5].mean() + surprise[5:].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    assert plain.grad is not None
    torch.testing.assert_close(logits.grad, plain.grad.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_log_probabilities_are_those_of_the_distribution_that_was_drawn_from(temperature: float) -> None:
    rows = LOGITS.double()
    expected = [
        float(row[t] / temperature - torch.logsumexp(row / temperature, 0))
        for row, t in zip(rows, TARGETS, strict=True)
    ]
    torch.testing.assert_close(
        log_probability(LOGITS, TARGETS, temperature), torch.tensor(expected), rtol=1e-5, atol=1e-6
    )


def test_a_word_that_cannot_be_said_has_no_share_in_the_distribution() -> None:
    logits = LOGITS.index_fill(-1, torch.tensor([2]), -torch.inf)
    rest = torch.cat([LOGITS[:, :2], LOGITS[:, 3:]], 1)
    shifted = torch.where(TARGETS > 2, TARGETS - 1, TARGETS)
    torch.testing.assert_close(log_probability(logits, TARGETS), log_probability(rest, shifted))
