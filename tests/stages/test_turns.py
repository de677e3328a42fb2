"""Answers that call tools: what is trained of them, and that nothing differs from the plain computation."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.sample import make_truth
from medvlm.data.rows import collate
from medvlm.rollouts._contract import Answer, SamplingParams
from medvlm.train.terms import LOSS
from tests.stages.batches import first
from tests.stages.calling import FIRST
from tests.tiny_run import REASON, differing, recipe, trace, trained, weights, written

Make = Callable[..., Any]
TOOLS = "environment={turns: 2, tools: [zoom]}"
ENGINE = {"kind": "tests.stages.calling"}


@pytest.fixture
def stage(stage_of: Make) -> Any:
    made = stage_of("grpo", TOOLS, "plugins=[tests]", temperature=0.8, batch=3, group=4, rollouts=ENGINE, kl=0)
    made.composer.score = lambda text, truth: (len(text) % 5 / 4, {"choice": len(text) % 5 / 4})
    with torch.no_grad():  # an untrained model says the same whatever it is asked
        for parameter in made.model.language.parameters():
            parameter.mul_(6)
    return made


def compute_plainly(stage: Any, prompt: Any, answer: Answer) -> torch.Tensor:
    """Log-probability of each token that the policy wrote in one answer: the stock language model on the plain
    sequence, with the images of prompt and tools in their places."""
    batch = collate([prompt.add_answers([answer])], stage.setup.prepare.image_tokens, 0)
    logits = stage.model.language(inputs_embeds=stage.model.embed(batch)).logits[0]
    logits = logits.index_fill(-1, torch.tensor([stage.model.image_token_id]), -torch.inf)
    log_TV = (logits / 0.8).log_softmax(-1)
    begin = len(prompt.add_answers([]).prefix)
    found, at = [], begin
    for ids, shown in [*((ids, seen.ids) for ids, seen in answer.earlier), (answer.ids, [])]:
        found += [log_TV[at + n - 1, token] for n, token in enumerate(ids)]
        at += len(ids) + len(shown)
    assert at == batch.ids_BT.shape[1]
    return torch.stack(found)


def test_log_probabilities_and_gradients_are_those_of_the_plain_sequences(stage: Any) -> None:
    prompts = first(stage)
    (rollout,) = stage.make_micros(prompts, 1)
    answers = [(p, a) for p, group in zip(prompts, rollout.drawn.groups, strict=True) for a in group]
    assert [len(a.earlier) for _, a in answers] == [0, 1, 1, 1] * 3
    assert [len(a.media) for _, a in answers] == [0, 1, 0, 1] * 3, "the third call of each four was refused"
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    log_L, _ = stage.policy.compute_log_probability(stage.model, rollout.batch)
    plain = [compute_plainly(stage, p, a) for p, a in answers]
    torch.testing.assert_close(log_L, torch.cat(plain), rtol=0, atol=1e-5)

    loss = stage.compute_loss(stage.model, rollout, 0)[LOSS].sum
    got = torch.autograd.grad(loss, trained)
    advantages = rollout.drawn.advantage_PG.flatten()
    assert advantages.unique().numel() > 2
    expected = -sum(a * log.sum() for a, log in zip(advantages, plain, strict=True))
    for a, b in zip(got, torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-7)


def test_only_what_the_policy_wrote_is_trained(stage: Any) -> None:
    prompts = first(stage)
    (rollout,) = stage.make_micros(prompts, 1)
    answers = rollout.drawn.answers
    assert rollout.batch.targets_L.tolist() == [i for a in answers for i in a.written]
    call = stage.setup.tokenizer(FIRST[1], add_special_tokens=False).input_ids
    assert answers[1].written == [*call, stage.setup.tokenizer.eos_token_id, *answers[1].ids]
    tokens = stage.setup.prepare.image_tokens["film"]
    assert len(rollout.batch.feature_rows) == tokens * 3 * 3, "a film and two views for each of three prompts"
    terms = stage.compute_loss(stage.model, rollout, 0)
    assert terms["calls"] == (9, 12) and terms["refused_calls"] == (3, 9)
    assert terms["answer_tokens"][0] == sum(len(a.written) for a in answers)


def test_a_prompt_with_a_view_is_what_supervised_training_and_evaluation_show(stage: Any) -> None:
    (prompt, *_) = first(stage)
    asked: list[Any] = []
    draw = stage.turns.engine.draw

    def noted(prompts: Any, sampling: SamplingParams) -> Any:
        asked.append(prompts)
        return draw(prompts, sampling)

    stage.turns.engine.draw = noted
    stage.rollouts.draw([prompt], SamplingParams(4, 0.8, 4))
    assert len(asked) == 2
    prepare = stage.setup.prepare
    for trail, said in zip(asked[1], FIRST[1:], strict=True):
        before = trail.question.before
        assert before[-1].truth == make_truth("open", said)
        seen = prepare.see(trail.sample, trail.files)
        document = prepare.document(trail.sample, [trail.question], seen, ["media"], answered=False)
        assert document.prefix == trail.document.prefix, said
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(document.media, trail.document.media, strict=True))


def test_later_replies_depend_on_position_and_copy_and_not_on_the_batch(stage: Any) -> None:
    prompts = first(stage)
    together = stage.rollouts.draw(prompts, SamplingParams(4, 0.8, 4))
    apart = [stage.rollouts.draw([prompt], SamplingParams(4, 0.8, 4))[0] for prompt in prompts]
    assert [[a.written for a in group] for group in together] == [[a.written for a in group] for group in apart]
    same = [replace(p, position=prompts[0].position) for p in prompts]
    moved = stage.rollouts.draw(same, SamplingParams(4, 0.8, 4))
    assert [[a.ids for a in g] for g in moved[1:]] != [[a.ids for a in g] for g in together[1:]]


def test_the_largest_micro_batch_has_every_turn_and_every_view(stage: Any) -> None:
    prompts = first(stage)
    heaviest, drawn = stage.make_heaviest(prompts), stage.make_micros(prompts, 1)[0]
    assert len(heaviest.batch.targets_L) == 3 * 4 * 2 * stage.config.max_new_tokens
    assert len(heaviest.batch.feature_rows) == 3 * 5 * stage.setup.prepare.image_tokens["film"]
    assert len(heaviest.batch.feature_rows) > len(drawn.batch.feature_rows)


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [3, 11])
def test_a_run_killed_within_a_tool_call_ends_the_same(dies_at: int, tmp_path: Path) -> None:
    def write(name: str, mark: Path) -> Path:
        tool = {"kind": "tests.stages.dying_tool", "word": "zoom", "dies_at": dies_at, "mark": str(mark)}
        own = {**REASON, "lora": {"rank": 2, "alpha": 4}, "rollouts": ENGINE}
        environment = {"turns": 2, "tools": [tool]}
        return written(tmp_path / name, recipe(name=name, stages=[own], environment=environment, plugins=["tests"]))

    (never := tmp_path / "never").touch()
    whole = trained(write("whole", never), tmp_path)
    path, mark = write("killed", tmp_path / "mark"), tmp_path / "mark"
    process = multiprocessing.get_context("fork").Process(target=_train, args=(path, tmp_path))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL and mark.exists()
    run = trained(path, tmp_path)
    assert trace(run, "reason") == trace(whole, "reason")
    assert differing(weights(run, "reason"), weights(whole, "reason")) == []


def _train(path: Path, runs: Path) -> None:
    from tests.stages import dying_tool

    dying_tool.calls = 0
    trained(path, runs)
