"""What a stage with rewards does with the answers that it draws: other questions in place of useless ones, answers that
were cut, engines that compute otherwise, and the objective of the recipe."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.objectives.policies import gspo
from medvlm.objectives.policies._contract import Tokens
from medvlm.train.terms import LOSS
from tests.stages.batches import first, weight_of
from tests.stages.fixed_answers import ANSWERS
from tests.tiny_run import REASON, cut_off, differing, recipe, trace, trained, weights, written

Make = Callable[..., Any]


@pytest.fixture
def loud(stage_of: Make) -> Callable[..., Any]:
    """Makes a stage whose answers differ, and are paid by their length, but for counts, which all earn the same."""

    def make(**changes: Any) -> Any:
        stage = stage_of("grpo", **{"temperature": 0.8, "batch": 4, "group": 3, **changes})
        with torch.no_grad():
            for parameter in stage.model.language.parameters():
                parameter.mul_(6)
        stage.composer.score = pay_length
        return stage

    return make


def pay_length(text: str, case: Any) -> tuple[float, dict[str, float]]:
    paid = 0.5 if case.truth.task == "count" else len(text) % 5 / 4
    return paid, {case.truth.task: paid}


def test_questions_whose_answers_all_earn_the_same_are_replaced(loud: Callable[..., Any]) -> None:
    plain, stage, again = loud(batch=16), loud(batch=16, refill=6), loud(batch=16, refill=6)
    prompts = first(plain)
    flat = [prompt.key for prompt in prompts if prompt.truth.task == "count"]
    assert flat and len(flat) < len(prompts), "the step needs questions of both tasks"
    (before,), (rollout,), (other,) = (each.make_micros(list(prompts), 1) for each in (plain, stage, again))
    differing = rollout.terms["groups_that_differ"]
    assert differing.sum > before.terms["groups_that_differ"].sum and rollout.terms["replaced"].sum >= len(flat)
    assert "replaced" not in before.terms
    assert torch.equal(rollout.batch.targets_L, other.batch.targets_L), "the same in every run"
    useless = before.drawn.list_flat()
    kept = {prompt.key for i, prompt in enumerate(before.drawn.prompts) if i not in useless}
    assert kept <= set(rollout.batch.keys), "questions that teach stay"


def test_another_question_has_its_own_random_numbers_and_its_own_sample(loud: Callable[..., Any]) -> None:
    stage = loud(refill=2)
    prompt, *_ = first(stage)
    others = [stage._find_another(prompt, attempt) for attempt in (1, 2)]
    assert {each.source for each in others} == {prompt.source} and [each.attempt for each in others] == [1, 2]
    assert len({prompt.key, *(each.key for each in others)}) > 1
    sampling = stage.drawer._draw([prompt]).groups, stage.drawer._draw([others[0]]).groups
    same = stage.drawer._draw([others[0]]).groups
    assert same == sampling[1] and sampling[0] != sampling[1]


def test_a_sample_that_cannot_be_read_is_noted_and_not_taken(loud: Callable[..., Any]) -> None:
    from medvlm.core.errors import DataError

    stage = loud(refill=1)
    prompts = first(stage)
    noted: list[tuple[str, str, str]] = []
    object.__setattr__(stage.setup, "quarantine", lambda *what: noted.append(what))
    stage.prepare_sample = _raise(DataError("broken"))
    stage.composer.score = lambda text, case: (0.5, {"choice": 0.5})
    (rollout,) = stage.make_micros(prompts, 1)
    assert rollout.terms["replaced"].sum == 0 and len(noted) == len(prompts) and noted[0][2] == "broken"
    assert rollout.batch.keys == tuple(prompt.key for prompt in prompts)


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_a_rank_without_useless_questions_draws_with_the_others(loud: Callable[..., Any]) -> None:
    """Some engines gather the weights from all ranks for every call, so none may stay away."""
    stage, calls, numbers = loud(refill=2), list[int](), count()
    draw = stage.rollouts.draw

    def noted(prompts: Any, sampling: Any) -> Any:
        calls.append(len(prompts))
        return draw(prompts, sampling)

    stage.rollouts.draw = noted
    stage.engine.sum_over_ranks = lambda values: [float(v) + 1 for v in values]  # another rank has one
    stage.composer.score = lambda text, case: (next(numbers) / 100, {"choice": 0.0})
    prompts = first(stage)
    assert not stage.drawer.draw(prompts, stage._find_another).list_flat() and calls == [len(prompts), 0, 0]


def test_answers_that_were_cut_are_left_out_of_the_loss(loud: Callable[..., Any]) -> None:
    stage = loud(mask_cut=True)
    (rollout,) = stage.make_micros(first(stage), 1)
    drawn = rollout.lengths_A == stage.config.max_new_tokens
    ends = rollout.batch.targets_L.split(rollout.lengths_A.tolist())
    is_cut = torch.tensor(
        [
            bool(long) and int(ids[-1]) not in {stage.setup.tokenizer.eos_token_id}
            for long, ids in zip(drawn, ends, strict=True)
        ]
    )
    assert is_cut.any() and rollout.weight == float(rollout.lengths_A[~is_cut].sum()) == weight_of(stage, rollout)
    expected = (~is_cut).float().repeat_interleave(rollout.lengths_A)
    assert rollout.factor_L is not None and torch.equal(rollout.factor_L, expected)
    loss = stage.compute_loss(stage.model, rollout, 0)[LOSS].sum
    assert loss.item() == pytest.approx(-float((rollout.advantage_L * expected).sum()), abs=1e-4)


ENGINE = {"group": 2, "batch": 4, "rollouts": {"kind": "tests.stages.fixed_answers"}, "kl": 0.0}


def test_an_engine_that_computes_otherwise_is_corrected_for(stage_of: Make) -> None:
    """The clipped ratio is to the model's own log-probabilities, and each token weighs as much more or less as the
    engine was wrong about it; a second update keeps the weights of the first."""
    made = stage_of("grpo", "plugins=[tests]", **ENGINE, correction={"bounds": [0.5, 1.2], "outside": "truncate"})
    (rollout,) = made.make_micros(first(made), 1)
    assert rollout.drawn_L is None
    rollout.advantage_L = torch.linspace(-1, 1, 16)
    own_L = made.policy.compute_log_probability(made.model, rollout.batch)[0].detach()
    engine_L = torch.tensor([x for each in ANSWERS for x in each.log_probabilities or ()] * 4)
    weights = (own_L - engine_L).exp().clamp(0.5, 1.2)
    terms = made.compute_loss(made.model, rollout, 0)
    assert terms[LOSS].sum.item() == pytest.approx(-float((rollout.advantage_L * weights).sum()), rel=1e-5)
    assert terms["clipped"].sum == 0 and terms["correction"].sum == pytest.approx(float(weights.sum()), rel=1e-5)
    assert terms["engine_gap"].sum == pytest.approx(float((own_L - engine_L).abs().sum()), rel=1e-5)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    moved = made.policy.compute_log_probability(made.model, rollout.batch)[0].detach()
    ratio = (moved - own_L).exp()
    expected = -torch.minimum(ratio * rollout.advantage_L, ratio.clamp(0.8, 1.2) * rollout.advantage_L) * weights
    assert made.compute_loss(made.model, rollout, 0)[LOSS].sum.item() == pytest.approx(float(expected.sum()), rel=1e-4)


def test_the_objective_of_the_recipe_makes_advantages_loss_and_weight(stage_of: Make) -> None:
    made = stage_of("grpo", "plugins=[tests]", **ENGINE, objective={"kind": "gspo", "clip": 0.1, "clip_high": 0.3})
    (rollout,) = made.make_micros(first(made), 1)
    rollout.advantage_L = torch.tensor([1.0, 1.0, 1.0, -2.0] * 4)
    assert rollout.weight == 8
    log_L = made.policy.compute_log_probability(made.model, rollout.batch)[0].detach()
    tokens = Tokens(log_L, rollout.drawn_L, rollout.advantage_L, rollout.lengths_A)
    losses_L, is_clipped_L = gspo.compute_losses(made.config.objective, tokens)
    of_answer = (losses_L / rollout.lengths_A.repeat_interleave(rollout.lengths_A)).sum()
    terms = made.compute_loss(made.model, rollout, 0)
    assert terms[LOSS].sum.item() == pytest.approx(float(of_answer), rel=1e-5) and terms[LOSS].weight == 8
    assert terms["clipped"] == (float(is_clipped_L.sum()), 16)


@pytest.mark.parametrize(("changes", "message"), [
    ({"objective": "dapo", "clip": 0.3}, "clip: the stage names an `objective`"),
    ({"objective": "dpao"}, "did you mean 'dapo'"),
    ({"objective": {"kind": "dapo", "soft": 3}}, r"objective\.soft: unknown key"),
    ({"refill": 2, "accumulate": "auto"}, "refill: ranks exchange"),
    ({"objective": "gdpo", "accumulate": "auto"}, "objective gdpo: ranks exchange"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(stage_of: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage_of("grpo", **changes)


def test_a_bare_objective_is_one_with_its_default_settings(stage_of: Make) -> None:
    bare, full = (stage_of("grpo", objective=each).config for each in ("dapo", {"kind": "dapo"}))
    assert bare == full and bare.policy_objective.clip_high == 0.28
    default = stage_of("grpo", clip=0.3, scale_by_deviation=False).config.policy_objective
    assert (default.kind, default.clip, default.scale_by_deviation) == ("grpo", 0.3, False)


@pytest.mark.slow
def test_a_run_that_replaces_questions_and_was_killed_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    stage = {**REASON, "lora": {"rank": 2}, "refill": 2, "objective": "gdpo", "updates": 2, "group": 2}
    stage["rewards"] = {"format": 1.0, "medvlm.preflight.rehearsal.fake_reward": 0.01}
    settings = {"stages": [stage], "plugins": ["medvlm"]}
    whole = trained(written(tmp_path / "whole", recipe(name="whole", **settings)), tmp_path / "runs")
    path = written(tmp_path / "cut", recipe(name="cut", **settings))
    for at, step in (("drawing", 2), ("scoring", 3), ("updating", 4), ("logged", 5)):
        cut_off(path, tmp_path / "runs", "reason", step, at)
    run = trained(path, tmp_path / "runs")
    assert trace(run, "reason") == trace(whole, "reason") and len(trace(run, "reason")) == stage["steps"]
    assert differing(weights(run, "reason"), weights(whole, "reason")) == []
