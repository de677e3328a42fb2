"""Rollouts, their rewards and the gradient, compared with hand computations on the stock language model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.data.rows import collate
from medvlm.objectives.policy import divergence
from medvlm.rollouts._contract import Answer, SamplingParams
from medvlm.train.terms import LOSS
from tests.openai_server import Reply, complete, serve
from tests.stages.batches import first, weight_of

Make = Callable[..., Any]


@pytest.fixture
def stage(stage_of: Make) -> Any:
    """Rewards the length of an answer, because an untrained model gives no right answer. `said` holds the answers of
    every rollout."""
    made = stage_of("grpo", temperature=0.8, batch=4, group=3)
    made.composer.score = lambda text, truth: (score(text), {"choice": score(text)})
    with torch.no_grad():  # an untrained model says the same whatever it is asked
        for parameter in made.model.language.parameters():
            parameter.mul_(6)
    draw, made.said = made.rollouts.draw, []

    def noted(*args: Any) -> list[list[Answer]]:
        groups: list[list[Answer]] = draw(*args)
        made.said.append([answer.ids for group in groups for answer in group])
        return groups

    made.rollouts.draw = noted
    return made


def score(text: str) -> float:
    return len(text) % 5 / 4


def stock_log_probability(stage: Any, prompt: Any, answer: list[int]) -> torch.Tensor:
    """Log-probability of each token of one answer: the stock model on the plain sequence, at the same temperature and
    without the image placeholder."""
    batch = collate([prompt.add_answers([Answer(answer)])], stage.setup.prepare.image_tokens, 0)
    logits = stage.model.language(inputs_embeds=stage.model.embed(batch)).logits[0, -len(answer) - 1 : -1]
    logits = logits.index_fill(-1, torch.tensor([stage.model.image_token_id]), -torch.inf)
    return (logits / 0.8).log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]


def test_the_gradient_is_that_of_advantage_times_log_probability(stage: Any) -> None:
    """At a ratio of one the clipped objective is the policy gradient, summed over the tokens of all answers."""
    prompts = first(stage)
    (rollout,) = stage.make_micros(prompts, 1)
    assert rollout.advantage_L.unique().numel() > 2, "all answers earned the same: the test shows nothing"
    terms = stage.compute_loss(stage.model, rollout, 0)
    loss = terms[LOSS].sum
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    got = torch.autograd.grad(loss, trained)

    expected_loss, at, seen = torch.zeros(()), 0, []
    for n, prompt in enumerate(prompts):
        group = stage.said[0][3 * n : 3 * n + 3]
        rewards = [score(stage.policy.read(a)) for a in group]
        mean = sum(rewards) / len(rewards)
        deviation = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5
        for reward, answer in zip(rewards, group, strict=True):
            advantage = (reward - mean) / (deviation + 1e-4)
            torch.testing.assert_close(
                rollout.advantage_L[at : at + len(answer)], torch.full((len(answer),), advantage), rtol=1e-4, atol=1e-5
            )
            expected_loss = expected_loss - advantage * stock_log_probability(stage, prompt, answer).sum()
            at += len(answer)
            seen.append(reward)
    for a, b in zip(got, torch.autograd.grad(expected_loss, trained), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-7)
    assert rollout.batch.targets_L.tolist() == [i for a in stage.said[0] for i in a]
    assert terms["reward"] == (pytest.approx(sum(seen)), len(seen)) and weight_of(stage, rollout) == at


def test_a_second_update_compares_with_the_policy_that_drew_the_answers(stage: Any) -> None:
    """The ratio is against the first update's log-probabilities, so what has moved too far is clipped."""
    prompts = first(stage)
    (rollout,) = stage.make_micros(prompts, 1)
    terms = stage.compute_loss(stage.model, rollout, 0)
    assert terms["clipped"][0] == 0
    answers = list(zip([p for p in prompts for _ in range(3)], stage.said[-1], strict=True))
    with torch.no_grad():
        before = torch.cat([stock_log_probability(stage, p, a) for p, a in answers])
        for name, parameter in stage.model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
        after = torch.cat([stock_log_probability(stage, p, a) for p, a in answers])
    terms = stage.compute_loss(stage.model, rollout, 0)
    loss = terms[LOSS].sum
    ratio, advantage = (after - before).exp(), rollout.advantage_L
    expected = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    assert loss.item() == pytest.approx(float(expected.sum()), rel=1e-3, abs=1e-3)
    held = ((ratio > 1.2) & (advantage > 0)) | ((ratio < 0.8) & (advantage < 0))
    assert terms["clipped"] == (float(held.sum()), len(held)) and held.any()


def test_answers_depend_on_the_position_and_not_on_the_batch_or_the_random_state(stage: Any) -> None:
    prompts = first(stage)
    torch.manual_seed(1)
    stage.make_micros(prompts, 1)
    torch.manual_seed(2)
    stage.make_micros(prompts, 4)
    together, *apart = stage.said
    assert together == [a for one in apart for a in one] and len({tuple(a) for a in together}) > len(prompts)
    stage.make_micros([replace(p, position=p.position + 1000) for p in prompts], 1)
    assert stage.said[-1] != together


def test_the_reference_is_the_policy_as_the_stage_began(stage: Any) -> None:
    stage.begin()
    began = copy.deepcopy(stage.model)
    prompts = first(stage)
    (rollout,) = stage.make_micros(prompts, 1)
    terms = stage.compute_loss(stage.model, rollout, 0)
    assert terms["kl"][0] == pytest.approx(0, abs=1e-5), "the policy has not moved yet"

    with torch.no_grad():
        for parameter in stage.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    moved = {n: p.detach().clone() for n, p in stage.model.named_parameters()}
    (rollout,) = stage.make_micros(prompts, 1)
    terms = stage.compute_loss(stage.model, rollout, 0)
    loss = terms[LOSS].sum
    assert all(torch.equal(p, moved[n]) for n, p in stage.model.named_parameters()), "the policy was not put back"
    with torch.no_grad():
        answers = list(zip([p for p in prompts for _ in range(3)], stage.said[-1], strict=True))
        now = torch.cat([stock_log_probability(stage, p, a) for p, a in answers])
        stage.model = began
        then = torch.cat([stock_log_probability(stage, p, a) for p, a in answers])
    expected = float(divergence(now, then).sum())
    assert terms["kl"][0] == pytest.approx(expected, rel=1e-3) and expected > 1e-3
    assert loss.item() == pytest.approx(-float(rollout.advantage_L.sum()) + 0.1 * expected, rel=1e-3, abs=1e-4)


def test_without_a_weight_there_is_no_reference(stage_of: Make) -> None:
    made = stage_of("grpo", kl=0)
    made.begin()
    assert not made.policy.reference and "kl" not in made.compute_loss(
        made.model, made.make_micros(first(made), 1)[0], 0
    )


def test_the_policy_that_is_trained_has_no_dropout(stage_of: Make) -> None:
    made = stage_of("grpo", lora={"rank": 2, "dropout": 0.5})
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_()
    (rollout,) = made.make_micros(first(made), 1)
    batch = rollout.batch
    assert (
        torch.equal(made.model(batch)["logits_LV"], made.model(batch)["logits_LV"])
        and made.model(batch)["logits_LV"].requires_grad
    )


def test_validation_scores_the_greedy_answer(stage: Any) -> None:
    found = stage.validate(stage.model, 5)
    assert found["loss"][0] == -found["reward"][0] and found["loss"][1] == found["reward"][1] == len(
        stage.prepare_validation(5)
    )
    prompts = stage.prepare_validation(5)
    greedy = SamplingParams(1, 0.0, stage.config.max_new_tokens)
    answers = [stage.rollouts.draw([prompt], greedy)[0][0] for prompt in prompts]
    expected = sum(score(stage.policy.read(answer.ids)) for answer in answers)
    assert found["reward"][0] == pytest.approx(expected)


@pytest.mark.parametrize(("rewards", "message"), [
    ({"chioce": 1.0}, "unknown reward 'chioce', did you mean 'choice'"),
    ({"choice": 0.0}, "expected more than 0"),
    ({}, "give at least one reward"),
])  # fmt: skip
def test_rewards_that_cannot_be_used_are_refused(stage_of: Make, rewards: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        stage_of("grpo", rewards=rewards)


def test_a_prompt_keeps_its_text_and_media_for_an_engine_that_prepares_them_itself(stage: Any) -> None:
    for prompt in first(stage):
        assert prompt.text in [q.text for q in prompt.sample.questions] and prompt.key == prompt.sample.key
        assert prompt.text in stage.setup.tokenizer.decode(prompt.add_answers([]).prefix)
        _, pixels = stage.setup.prepare.see(prompt.sample, prompt.files).media[0]
        assert torch.equal(pixels, prompt.document.media[0][1])


def test_an_engine_of_another_package_draws_by_a_line_of_the_recipe(stage_of: Make) -> None:
    """It answers with fixed words and says how probable they were: the ratio is against that, from the first update."""
    made = stage_of("grpo", "plugins=[tests]", group=2, batch=4, rollouts={"kind": "tests.stages.fixed_answers"})
    (rollout,) = made.make_micros(first(made), 1)
    assert rollout.batch.targets_L.tolist() == [305, 306, 307, 305] * 4
    assert rollout.drawn_L.tolist() == pytest.approx([-1.0, -2.0, -3.0, -1.0] * 4)
    terms = made.compute_loss(made.model, rollout, 0)
    ratio = (made.policy.compute_log_probability(made.model, rollout.batch)[0].detach() - rollout.drawn_L).exp()
    held = ((ratio > 1.2) & (rollout.advantage_L > 0)) | ((ratio < 0.8) & (rollout.advantage_L < 0))
    assert terms["clipped"] == (float(held.sum()), 16)


def test_what_is_planned_for_are_answers_as_long_as_they_may_be(stage: Any) -> None:
    prompts = first(stage)
    heaviest, (drawn,) = stage.make_heaviest(prompts), stage.make_micros(prompts, 1)
    assert len(heaviest.batch.targets_L) == len(prompts) * 3 * stage.config.max_new_tokens
    assert heaviest.batch.ids_BT.numel() >= drawn.batch.ids_BT.numel()
    assert "kl" in stage.compute_loss(stage.model, heaviest, 0)


def test_an_answer_that_is_cut_at_its_limit_earns_nothing(stage_of: Make) -> None:
    prompt, *_ = first(stage_of("grpo"))
    for pay_cut, paid in ((False, 0.0), (True, 1.0)):
        stage = stage_of("grpo", pay_cut=pay_cut)
        stage.composer.score = lambda text, truth: (1.0, {"choice": 1.0})
        end = stage.setup.tokenizer.eos_token_id
        word = next(i for i in range(len(stage.setup.tokenizer)) if i != end)
        most = stage.config.max_new_tokens
        answers = [Answer([word] * most), Answer([word] * (most - 1) + [end]), Answer([word] * (most - 1))]
        scored = stage.drawer.score(answers, [prompt] * 3)
        assert scored == [(paid, {"choice": paid}), *[(1.0, {"choice": 1.0})] * 2]


def test_a_judge_without_a_score_is_counted_and_its_group_is_judged_by_the_rest(stage_of: Make) -> None:
    """The judge answers nonsense to the first answer that it is asked about."""
    asked = count()

    def reply(body: dict[str, Any]) -> Reply:
        return complete("Score: 1" if next(asked) else "I cannot tell.")

    with serve(reply) as url:
        length = {"weight": 1, "least": 1, "most": 9}
        stage = stage_of("grpo", rewards={"judge_score": {"weight": 1, "url": url}, "length": length}, pay_cut=True)
        stage.warnings.check_rewards = lambda *_: None
        (rollout,) = stage.make_micros(first(stage), 1)
    answers, groups = rollout.drawn.answers, rollout.drawn.scored
    assert any(stage.policy.read(answer.ids).strip() for answer in answers)
    without = [group for group in groups if "judge_score" not in group[0][1]]
    assert rollout.terms["missing/judge_score"] == (1.0, len(answers)) and len(without) == 1 < len(groups)
    assert all(parts.keys() == {"length"} for _, parts in without[0])
