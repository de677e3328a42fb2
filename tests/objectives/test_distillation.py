"""Divergences from a teacher against the formula of TRL (`GKDTrainer.generalized_jsd_loss`), with `kl_div` as there:
losses and gradients on equal tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import kl_div

from medvlm.objectives.distillation import find_divergence

L, V = 7, 11


def make_logits() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(L, V, generator=rng, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def trl(student: torch.Tensor, teacher: torch.Tensor, beta: float, temperature: float) -> torch.Tensor:
    p, q = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    if beta == 0:
        return kl_div(p, q, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return kl_div(q, p, reduction="none", log_target=True).sum(-1)
    share = torch.tensor(beta, dtype=p.dtype)
    mixture = torch.logsumexp(torch.stack([p + torch.log1p(-share), q + torch.log(share)]), dim=0)
    of_teacher = kl_div(mixture, q, reduction="none", log_target=True)
    of_student = kl_div(mixture, p, reduction="none", log_target=True)
    return (share * of_teacher + (1 - share) * of_student).sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_losses_and_gradients_equal_those_of_trl(beta: float, temperature: float) -> None:
    student, teacher = make_logits()
    found, expected = (find(student, teacher, beta, temperature) for find in (find_divergence, trl))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    weights = torch.arange(1.0, L + 1, dtype=torch.float64)
    gradients = [torch.autograd.grad(each @ weights, student)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_two_coins_by_hand() -> None:
    """A fair student and a teacher of 1 to 3: KL(teacher || student) and KL(student || teacher) in nats."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])
    forward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    reverse = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert find_divergence(student, teacher, 0.0).item() == pytest.approx(forward)
    assert find_divergence(student, teacher, 1.0).item() == pytest.approx(reverse)
    assert find_divergence(teacher, teacher, 0.5).item() == pytest.approx(0, abs=1e-7)


def test_bfloat16_is_computed_in_float32() -> None:
    student, teacher = (each.detach().to(torch.bfloat16) for each in make_logits())
    expected = find_divergence(student.float(), teacher.float(), 0.5)
    assert torch.equal(find_divergence(student, teacher, 0.5), expected)
