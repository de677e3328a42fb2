"""Pairs of a model's own answers: which are learned from, and the loss against each answer by itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from medvlm.cli import main
from medvlm.core.errors import RecipeError
from medvlm.data.rows import collate
from medvlm.rollouts._contract import Answer
from medvlm.train.terms import LOSS
from tests.stages.batches import first
from tests.tiny_run import cut_off, differing, recipe, staged, trace, trained, weights, written

ROUND: dict[str, Any] = {
    "name": "round", "kind": "preference_round", "mix": {"films": 1}, "trains": ["connectors", "language"],
    "tasks": ["choice", "count"], "rewards": {"choice": 1, "count": 1}, "group": 4, "max_new_tokens": 5, "steps": 3,
    "batch": 4, "save_every": 2, "optim": {"lr": 1.0e-2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round")


def make(folder: Path, worth: Callable[[str], float] | None = None, **changes: Any) -> Any:
    """worth: of a text, since an untrained model gives no right answer."""
    stage = staged(written(folder / "recipe", recipe(stages=[{**ROUND, "pay_cut": True, **changes}])), folder, "round")
    stage.begin()
    stage.warnings.check_rewards = lambda *_: None
    with torch.no_grad():  # an untrained model says the same whatever it is asked
        for parameter in stage.model.language.parameters():
            parameter.mul_(6)
    if worth:
        stage.composer.score = lambda text, case: (worth(text), {"choice": worth(text)})
    return stage


def length(text: str) -> float:
    return len(text) % 7 / 6


def log_of(model: Any, stage: Any, prompt: Any, ids: list[int]) -> torch.Tensor:
    """The log-probability of one answer: the model on the plain sequence of question and answer."""
    batch = collate([prompt.add_answers([Answer(ids)])], stage.setup.prepare.image_tokens, 0)
    logits = model.language(inputs_embeds=model.embed(batch)).logits[0, -len(ids) - 1 : -1]
    logits = logits.index_fill(-1, torch.tensor([model.image_token_id]), -torch.inf)
    return logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum()


def test_the_best_answer_is_preferred_to_the_worst_where_the_gate_is_passed(folder: Path) -> None:
    stage = make(folder, length, least=0.6, apart=0.2)
    began = copy.deepcopy(stage.model)
    stage.policy.keep_reference()
    prompts = first(stage)
    with torch.no_grad():
        for parameter in stage.model.language.parameters():
            parameter.mul_(1.01)
    (micro,) = stage.make_micros(prompts, 1)
    drawn, margins, kept = micro.drawn, [], 0
    for prompt, group in zip(drawn.prompts, drawn.groups, strict=True):
        worths = [length(stage.policy.read(answer.ids)) for answer in group]
        best, worst = worths.index(max(worths)), worths.index(min(worths))
        if max(worths) < 0.6 or max(worths) - min(worths) < 0.2:
            continue
        kept += 1
        now, then = (
            [log_of(model, stage, prompt, group[number].ids) for number in (best, worst)]
            for model in (stage.model, began)
        )
        margins.append(0.1 * ((now[0] - then[0].detach()) - (now[1] - then[1].detach())))
    assert 0 < kept < len(prompts), "the gate is tried both ways"
    measured = stage.compute_loss(stage.model, micro, 0)
    expected = -logsigmoid(torch.stack(margins)).sum()
    assert measured[LOSS].weight == kept == stage.weigh(micro)[LOSS]
    assert measured[LOSS].sum.item() == pytest.approx(expected.item(), rel=1e-4)
    assert measured["kept"] == (kept, len(prompts)) and measured["from_data"].sum == 0
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    own = torch.autograd.grad(measured[LOSS].sum, trained)
    for found, other in zip(own, torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()) + 1e-7)


def test_the_right_answer_of_the_data_is_preferred_where_no_drawn_one_is_good(folder: Path) -> None:
    failed = make(folder, lambda text: 0.1 * length(text), right_answers="failed")
    prompts = first(failed)
    (micro,) = failed.make_micros(prompts, 1)
    assert micro.counts_N.tolist() == [1.0] * 4 and micro.terms["from_data"] == (4.0, 4)
    said = micro.batch.targets_L.split(micro.lengths_A.tolist())
    for number, prompt in enumerate(prompts):
        text = failed.setup.tokenizer.decode(said[2 * number].tolist(), skip_special_tokens=True).strip()
        assert text == prompt.truth.answer
        worst = min(micro.drawn.groups[number], key=lambda answer: length(failed.policy.read(answer.ids)))
        assert said[2 * number + 1].tolist() == worst.ids
    never = make(folder, lambda text: 0.1 * length(text))
    (micro,) = never.make_micros(first(never), 1)
    measured = never.compute_loss(never.model, micro, 0)
    assert measured[LOSS].sum.item() == measured[LOSS].weight == measured["preferred"].weight == 0
    trained = [p for p in never.model.parameters() if p.requires_grad]
    found = torch.autograd.grad(measured[LOSS].sum, trained, allow_unused=True)
    assert sum(float(each.abs().sum()) for each in found if each is not None) == 0


def test_answers_that_no_reward_could_score_have_not_failed(folder: Path) -> None:
    """A judge that cannot be reached makes no right answer of the worst one."""
    stage = make(folder, right_answers="failed")
    stage.composer.score = lambda text, case: (0.0, {})
    (micro,) = stage.make_micros(first(stage), 1)
    assert micro.counts_N.tolist() == [0.0] * 4 and micro.terms["from_data"] == (0.0, 4)


def test_a_right_answer_that_earns_too_little_is_not_preferred_to_others(folder: Path) -> None:
    """It was drawn, but without what a template writes behind the end of an answer."""
    stage = make(folder, lambda text: 0.1, right_answers="failed")
    prompts = first(stage)
    groups = [[Answer([*prompt.right]), *[Answer([5, 6])] * 3] for prompt in prompts]
    stage.drawer.rollouts.draw = lambda *_: groups
    longer = [replace(prompt, right=(*prompt.right, stage.setup.tokenizer.eos_token_id)) for prompt in prompts]
    (micro,) = stage.make_micros(longer, 1)
    assert micro.terms["from_data"] == (0.0, 4) and micro.counts_N.tolist() == [0.0] * 4


def test_a_judge_that_is_not_there_is_noticed_before_anything_is_drawn(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"rewards\.radeval_score\.python: /no/such/python cannot be started"):
        make(folder, rewards={"radeval_score": {"weight": 1, "python": "/no/such/python"}}, tasks=["report"])


def test_the_heaviest_micro_batch_needs_no_answers(folder: Path) -> None:
    stage = make(folder)
    heaviest = stage.make_heaviest(first(stage))
    assert stage.compute_loss(stage.model, heaviest, 0)[LOSS].weight == 4
    assert heaviest.lengths_A.tolist() == [5] * 8
    longer = [replace(prompt, right=(7,) * 9) for prompt in first(stage)]  # right answers of the data have no limit
    assert stage.make_heaviest(longer).lengths_A.tolist() == [9] * 8


def test_two_rounds_train_one_after_the_other_and_store_what_they_drew(folder: Path) -> None:
    """The second one begins, and has its reference, where the first one ends. A reward of the form has a spread."""
    own = {"rewards": {"length": {"weight": 1, "least": 1, "most": 2}}, "least": 0.0, "apart": 1e-3, "pay_cut": True}
    stages = [{**ROUND, **own, "name": name} for name in ("round", "again")]
    path = written(folder / "two", recipe(stages=stages))
    assert main(["train", str(path), "--runs", str(folder / "runs")]) == 0
    run = folder / "runs" / "tiny"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [line["terms"]["kept"] for line in lines if line["stage"] == "again"]
    assert len(kept) == 3 and all(0 <= each <= 1 for each in kept) and any(kept)
    stored = [json.loads(line) for line in (run / "again/rollouts/step-1.jsonl").read_text().splitlines()]
    assert {line["advantage"] for line in stored} <= {-1.0, 0.0, 1.0} and all("answer" in line for line in stored)
    assert json.loads((run / "again" / "stage.json").read_text())["from"]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_last_bit(folder: Path) -> None:
    """While it draws, while it scores what was drawn, in an update, and once more after the step."""
    own = {"rewards": {"length": {"weight": 1, "least": 1, "most": 2}}, "least": 0.0, "apart": 1e-3, "pay_cut": True}
    stages = [{**ROUND, **own, "right_answers": "failed", "steps": 6}]
    runs = folder / "kills"
    whole = trained(written(folder / "whole", recipe(name="whole", stages=stages)), runs)
    path = written(folder / "cut", recipe(name="cut", stages=stages))
    for at, step in (("drawing", 2), ("scoring", 3), ("updating", 4), ("logged", 5)):
        cut_off(path, runs, "round", step, at)
    run = trained(path, runs)
    assert trace(run, "round") == trace(whole, "round") and len(trace(run, "round")) == 6
    kept = [float.fromhex(terms["kept"]) for _, _, terms in trace(run, "round")]
    assert any(kept), "something was learned"
    assert differing(weights(run, "round"), weights(whole, "round")) == []
