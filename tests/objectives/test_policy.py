"""Group-relative policy optimisation against its formulas, computed in float64 one answer at a time."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from medvlm.objectives.policy import advantages, clip_ratio, divergence

REWARDS = [[1.0, 0.0, 0.25, 0.5], [0.2, 0.2, 0.2, 0.2], [0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize("scaled", [True, False])
def test_an_advantage_is_the_reward_less_the_groups_mean_over_its_deviation(scaled: bool) -> None:
    got = advantages(torch.tensor(REWARDS, dtype=torch.float64), scale_by_deviation=scaled)
    for group, found in zip(REWARDS, got.tolist(), strict=True):
        mean, deviation = statistics.fmean(group), statistics.pstdev(group)
        assert found == pytest.approx([(r - mean) / (deviation + 1e-4 if scaled else 1) for r in group], abs=1e-9)


@pytest.mark.parametrize("reward", [0.0, 0.04, 0.1, 0.2, 1 / 3, 0.7, 0.8, 1.0])
@pytest.mark.parametrize("group", [2, 3, 7, 8, 16])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_group_of_equal_rewards_teaches_nothing(reward: float, group: int, scaled: bool) -> None:
    """The float32 mean of eight 0.8 is not 0.8, so the difference has to be set to 0."""
    assert (advantages(torch.full((2, group), reward), scale_by_deviation=scaled) == 0).all()


def test_a_small_difference_of_rewards_still_teaches() -> None:
    rewards = torch.full((1, 8), 0.8)
    rewards[0, 0] += 1e-5
    assert advantages(rewards, scale_by_deviation=False)[0].tolist() == pytest.approx(
        [8.75e-6] + 7 * [-1.25e-6], abs=1e-7
    )


CASES = [(log, old, a) for log in (-2.0, -1.0, -0.95, -0.3) for old in (-1.0, -1.5) for a in (-2.0, -0.5, 0.0, 1.5)]


def test_the_clipped_loss_is_that_of_ppo_case_by_case() -> None:
    log, old, advantage = (torch.tensor(values, dtype=torch.float64) for values in zip(*CASES, strict=True))
    losses, is_clipped = clip_ratio(log, old, advantage, clip=0.2)
    for found, held, (x, y, a) in zip(losses.tolist(), is_clipped.tolist(), CASES, strict=True):
        ratio = math.exp(x - y)
        assert found == pytest.approx(-min(ratio * a, min(max(ratio, 0.8), 1.2) * a), abs=1e-12)
        assert held == ((ratio > 1.2 and a > 0) or (ratio < 0.8 and a < 0))


def test_at_a_ratio_of_one_the_gradient_is_that_of_the_policy_and_beyond_the_clip_there_is_none() -> None:
    log = torch.tensor([-1.0, -1.0, -0.5, -1.5], requires_grad=True)
    old = torch.tensor([-1.0, -1.0, -1.0, -1.0])
    clip_ratio(log, old, torch.tensor([2.0, -3.0, 1.0, -1.0]), clip=0.2)[0].sum().backward()
    assert log.grad is not None and log.grad.tolist() == pytest.approx([-2.0, 3.0, 0.0, 0.0])


def test_the_divergence_is_never_negative_and_zero_for_equal_policies() -> None:
    generator = torch.Generator().manual_seed(0)
    log, reference = torch.randn(1000, generator=generator), torch.randn(1000, generator=generator)
    assert (divergence(log, reference) >= 0).all() and not divergence(log, log).any()


def test_the_divergence_is_unbiased() -> None:
    """Its mean over answers of the policy is the Kullback-Leibler divergence of the two distributions, summed
    exactly."""
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    expected = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    assert float((p * divergence(p.log(), q.log())).sum()) == pytest.approx(expected, rel=1e-12)
