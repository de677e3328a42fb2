"""Objectives for policies against the formulas of TRL 1.16 (and verl 0.9 where TRL has none), written down here for
padded answers, as TRL has them: losses, advantages and gradients on equal tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from medvlm.core.config import component, kinds
from medvlm.core.errors import RecipeError
from medvlm.objectives.policies._contract import SLOT, Groups, Tokens
from medvlm.objectives.policy import Correction, correct

P, G, LIMIT = 3, 4, 9
LENGTHS = torch.tensor([5, 9, 2, 7, 1, 3, 9, 4, 6, 2, 8, 3])
SCALE = {"gspo": 1e-3}
"""How far the policy has moved from the one that drew the answers, so that some ratios are clipped."""


def alone(values: list[float]) -> list[float]:
    return list(values)


@dataclass
class Case:
    """log, old: [A, LIMIT] of padded answers. mask: which of them are tokens."""

    log: torch.Tensor
    old: torch.Tensor
    mask: torch.Tensor
    groups: Groups


def make_case(kind: str, dtype: torch.dtype = torch.float64) -> Case:
    rng = torch.Generator().manual_seed(3)
    mask = torch.arange(LIMIT)[None] < LENGTHS[:, None]
    old = -torch.rand(P * G, LIMIT, generator=rng, dtype=dtype) * 3
    moved = torch.randn(P * G, LIMIT, generator=rng, dtype=dtype) * SCALE.get(kind, 0.4)
    parts = torch.rand(P, G, 2, generator=rng, dtype=dtype)
    parts[1] = 0.5  # a group without spread
    weights = torch.tensor([0.75, 0.25], dtype=dtype).expand(P, 2)
    rewards = (parts * weights[:, None]).sum(-1)
    return Case((old + moved).requires_grad_(), old, mask, Groups(rewards, parts, weights, LENGTHS.view(P, G), LIMIT))


def ours(kind: str, case: Case, advantage_PG: torch.Tensor, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the step, and [A, LIMIT] whether a token was clipped."""
    module = component(SLOT, kind)
    config = module.Config(kind=kind, **settings)
    flat = case.mask.flatten()
    log_L, old_L = case.log.flatten()[flat], case.old.flatten()[flat]
    advantage_L = advantage_PG.flatten().repeat_interleave(LENGTHS)
    loss_L, clipped_L = module.compute_losses(config, Tokens(log_L, old_L, advantage_L, LENGTHS))
    factor_A, weight = module.share_out(config, LENGTHS, LIMIT)
    clipped = torch.zeros_like(case.mask).flatten()
    clipped[flat] = clipped_L
    return (loss_L * factor_A.repeat_interleave(LENGTHS)).sum() / weight, clipped.view_as(case.mask)


def find(kind: str, groups: Groups, **settings: Any) -> torch.Tensor:
    module = component(SLOT, kind)
    return module.find_advantages(module.Config(kind=kind, **settings), groups, alone)


# --- as TRL has them ------------------------------------------------------------------------------------


def clipped_loss(ratio: torch.Tensor, advantage_A: torch.Tensor, low: float, high: float) -> torch.Tensor:
    a = advantage_A[:, None]
    return -torch.min(ratio * a, ratio.clamp(1 - low, 1 + high) * a)


def mean_ratio(case: Case) -> torch.Tensor:
    return (((case.log - case.old) * case.mask).sum(-1, keepdim=True) / case.mask.sum(-1, keepdim=True)).exp()


LOSSES: dict[str, Callable[[Case, torch.Tensor], torch.Tensor]] = {
    "grpo": lambda c, a: (clipped_loss((c.log - c.old).exp(), a, 0.2, 0.2) * c.mask).sum() / c.mask.sum(),
    "dapo": lambda c, a: (clipped_loss((c.log - c.old).exp(), a, 0.2, 0.28) * c.mask).sum() / c.mask.sum(),
    "gdpo": lambda c, a: (clipped_loss((c.log - c.old).exp(), a, 0.2, 0.2) * c.mask).sum() / c.mask.sum(),
    "dr_grpo": lambda c, a: (clipped_loss((c.log - c.old).exp(), a, 0.2, 0.2) * c.mask).sum() / (len(c.log) * LIMIT),
    "gspo": lambda c, a: clipped_loss(mean_ratio(c), a, 3e-4, 4e-4).mean(),
    "rloo": lambda c, a: clipped_loss(((c.log - c.old) * c.mask).sum(-1, keepdim=True).exp(), a, 0.2, 0.2).mean(),
}


def trl_scaled(rewards: torch.Tensor) -> torch.Tensor:
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)


def trl_normalize_then_sum(groups: Groups) -> torch.Tensor:
    parts = groups.parts_PGR
    each = (parts - parts.mean(1, keepdim=True)) / (parts.std(1, keepdim=True) + 1e-4)
    total = (each * groups.weights_PR[:, None]).sum(-1)
    return (total - total.mean()) / (total.std() + 1e-4)


def others(rewards: torch.Tensor) -> torch.Tensor:
    """The mean of the other rewards of the group, one by one."""
    return torch.stack([(rewards.sum(1) - rewards[:, i]) / (G - 1) for i in range(G)], 1)


ADVANTAGES: dict[str, Callable[[Groups], torch.Tensor]] = {
    "grpo": lambda g: trl_scaled(g.rewards_PG),
    "dapo": lambda g: trl_scaled(g.rewards_PG),
    "gspo": lambda g: trl_scaled(g.rewards_PG),
    "dr_grpo": lambda g: g.rewards_PG - g.rewards_PG.mean(1, keepdim=True),
    "rloo": lambda g: g.rewards_PG - others(g.rewards_PG),
    "gdpo": trl_normalize_then_sum,
}


@pytest.mark.parametrize("kind", kinds(SLOT))
def test_loss_and_gradient_are_those_of_trl(kind: str) -> None:
    case = make_case(kind)
    advantage_PG = torch.linspace(-1.5, 2, P * G, dtype=torch.float64).view(P, G)
    loss, is_clipped = ours(kind, case, advantage_PG)
    (gradient,) = torch.autograd.grad(loss, case.log)
    expected = LOSSES[kind](case, advantage_PG.flatten())
    (expected_gradient,) = torch.autograd.grad(expected, case.log)
    # Shares of answers are in float32.
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-14)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-14)
    assert is_clipped.any() and not is_clipped[case.mask].all(), "without clipped ratios the test shows little"
    assert not gradient[is_clipped].any()


@pytest.mark.parametrize("kind", kinds(SLOT))
def test_advantages_are_those_of_trl(kind: str) -> None:
    groups = make_case(kind).groups
    found, expected = find(kind, groups), ADVANTAGES[kind](groups)
    if kind == "grpo":  # it divides by G, as its paper does not say
        found = found * (groups.rewards_PG.std(1, keepdim=True, correction=0) + 1e-4)
        expected = expected * (groups.rewards_PG.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert not found[1].any(), "a group without spread teaches exactly nothing"


def test_dapo_takes_from_answers_near_the_limit() -> None:
    """Equation 13, case by case: 0 up to 6 of 9 tokens, then a third for each one."""
    groups = make_case("dapo").groups
    penalty = torch.tensor([[0.0, -1.0, 0.0, -1 / 3], [0.0, 0.0, -1.0, 0.0], [0.0, 0.0, -2 / 3, 0.0]])
    expected = trl_scaled(groups.rewards_PG + penalty)
    torch.testing.assert_close(find("dapo", groups, soft_tokens=3), expected, rtol=1e-6, atol=1e-7)


def test_gdpo_leaves_out_a_reward_that_cannot_judge() -> None:
    groups = make_case("gdpo").groups
    parts, weights = groups.parts_PGR.clone(), groups.weights_PR.clone()
    parts[0, :, 1], weights[0] = torch.nan, torch.tensor([1.0, 0.0])
    found = find("gdpo", Groups(groups.rewards_PG, parts, weights, groups.lengths_PG, LIMIT))
    parts[0, :, 1] = 0.3  # the same for all answers
    assert found[0].any() and torch.equal(
        found, find("gdpo", Groups(groups.rewards_PG, parts, weights, groups.lengths_PG, LIMIT))
    )


def test_gdpo_tells_apart_what_a_sum_of_rewards_does_not() -> None:
    """Figure 2 of its paper: (0, 1) and (0, 2) of two rewards have the same advantages in GRPO."""
    one, both = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    parts, weights = torch.cat([one, both]).double(), torch.full((2, 2), 0.5).double()
    groups = Groups(parts.mean(-1), parts, weights, torch.ones(2, 2), LIMIT)
    summed, apart = find("grpo", groups), find("gdpo", groups)
    torch.testing.assert_close(summed[0], summed[1], rtol=1e-3, atol=1e-3)
    assert float(apart[1, 1]) > 1.5 * float(apart[0, 1])


@pytest.mark.parametrize("kind", kinds(SLOT))
def test_answers_that_are_left_out_count_nowhere(kind: str) -> None:
    module = component(SLOT, kind)
    kept = LENGTHS.clone()
    kept[[1, 6]] = 0
    factor_A, weight = module.share_out(module.Config(kind=kind), kept, LIMIT)
    rest_A, expected = module.share_out(module.Config(kind=kind), LENGTHS[kept > 0], LIMIT)
    assert factor_A[kept == 0].tolist() == [0, 0] and torch.equal(factor_A[kept > 0], rest_A) and weight == expected


@pytest.mark.parametrize("of", ["token", "answer"])
@pytest.mark.parametrize("outside", ["truncate", "mask"])
def test_the_correction_is_that_of_trl(of: str, outside: str) -> None:
    case = make_case("grpo")
    engine = case.old - 0.5 * torch.randn(case.old.shape, generator=torch.Generator().manual_seed(5))
    gap = (case.old - engine) * case.mask
    ratio = (gap.sum(-1, keepdim=True).expand_as(gap) if of == "answer" else gap).exp()
    low, high = 0.5, 1.5
    expected = ratio.clamp(low, high) if outside == "truncate" else ratio.masked_fill((ratio < low) | (ratio > high), 0)
    config = Correction(bounds=(low, high), outside=outside, of=of)
    found, is_beyond = correct(case.old[case.mask], engine[case.mask], LENGTHS, config)
    torch.testing.assert_close(found, expected[case.mask], rtol=1e-9, atol=1e-12)
    assert is_beyond.any() and not is_beyond.all()
    assert torch.equal(is_beyond, ((ratio < low) | (ratio > high))[case.mask])


def test_bounds_that_exclude_equal_probabilities_are_refused() -> None:
    with pytest.raises((ValueError, RecipeError), match="must hold 1"):
        Correction(bounds=(1.2, 2.0))
