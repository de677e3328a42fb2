"""Training on pairs of answers, against the stock language model on each answer by itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from medvlm.cli import main
from medvlm.core.errors import RecipeError
from medvlm.data.rows import collate
from medvlm.train.terms import LOSS
from tests.stages.batches import first
from tests.tiny_run import CARD, cut_off, differing, recipe, staged, trace, trained, weights, written

PAIRED = {**CARD, "reader": {"kind": "phantom", "films": 60, "film_px": 96, "pairs": True}}
PREFER = {
    "name": "prefer", "kind": "preference", "mix": {"films": 1}, "trains": ["connectors", "lora"],
    "lora": {"rank": 2, "alpha": 4, "dropout": 0.5}, "steps": 4, "batch": 4, "save_every": 2, "optim": {"lr": 1.0e-2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("preference")


def make(folder: Path, **changes: Any) -> Any:
    stage = staged(written(folder / "recipe", recipe(stages=[{**PREFER, **changes}]), PAIRED), folder, "prefer")
    stage.begin()
    return stage


def log_of(model: Any, stage: Any, pair: Any, number: int) -> torch.Tensor:
    """The log-probability of one answer: the model on the plain sequence of question and answer."""
    ids = pair.document.branches[number][0]
    plain = copy.copy(pair.document)
    object.__setattr__(plain, "branches", [(ids, 0)])
    batch = collate([plain], stage.setup.prepare.image_tokens, 0)
    logits = model.language(inputs_embeds=model.embed(batch)).logits[0, -len(ids) - 1 : -1]
    logits = logits.index_fill(-1, torch.tensor([model.image_token_id]), -torch.inf)
    return logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum()


def move(stage: Any) -> None:
    with torch.no_grad():
        for name, parameter in stage.model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))


def test_the_loss_and_its_gradient_are_those_of_each_answer_by_itself(folder: Path) -> None:
    """The reference is the model as the stage began, and stays so when the model moves."""
    stage = make(folder)
    began = copy.deepcopy(stage.model)
    pairs = first(stage)
    (micro,) = stage.make_micros(pairs, 1)
    start = stage.compute_loss(stage.model, micro, 0)
    assert start[LOSS].sum.item() == pytest.approx(len(pairs) * 0.6931, abs=1e-3), "it has not moved yet"
    move(stage)
    (micro,) = stage.make_micros(pairs, 1)
    measured = stage.compute_loss(stage.model, micro, 0)
    trained_ones = [p for p in stage.model.parameters() if p.requires_grad]
    found = torch.autograd.grad(measured[LOSS].sum, trained_ones)
    margins = []
    for pair in pairs:
        now = [log_of(stage.model, stage, pair, n) for n in (0, 1)]
        with torch.no_grad():
            then = [log_of(began, stage, pair, n) for n in (0, 1)]
        margins.append(0.1 * ((now[0] - then[0]) - (now[1] - then[1])))
    expected = -logsigmoid(torch.stack(margins)).sum()
    assert measured[LOSS].sum.item() == pytest.approx(expected.item(), rel=1e-5) and measured[LOSS].weight == 4
    assert measured["margin"].sum == pytest.approx(sum(m.item() for m in margins), rel=1e-4, abs=2e-6)
    for own, other in zip(found, torch.autograd.grad(expected, trained_ones), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()) + 1e-7)


def test_both_answers_share_the_question_and_its_image(folder: Path) -> None:
    stage = make(folder, objective="simpo")
    pairs = first(stage)
    (micro,) = stage.make_micros(pairs, 1)
    assert micro.reference_N2 is None and not stage.policy.reference, "SimPO has no reference"
    assert micro.batch.media["film"].shape[0] == len(pairs) == len(micro.batch.keys)
    read = [
        stage.setup.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids, _ in pairs[0].document.branches
    ]
    view = stage.setup.open_source("films", "train", stage.wants)
    sample = next(view.read(i)[0] for i in range(len(view)) if view.read(i)[0].key == pairs[0].key)
    truth: Any = next(q.truth for q in sample.questions if q.truth.task == "preference")
    assert read == [truth.answer, truth.rejected]
    assert "log_preferred" in stage.compute_loss(stage.model, micro, 0)


def test_nothing_is_cut_and_long_pairs_are_refused_or_left_out(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"tokens including its images and both answers, but stages\.prefer\.max_tok"):
        first(make(folder, max_tokens=20))
    with pytest.raises(Exception, match="in a row cannot be used"):
        first(make(folder, max_tokens=20, overlong="drop"))


def test_the_heaviest_micro_batch_needs_no_weights(folder: Path) -> None:
    stage = make(folder)
    heaviest = stage.make_heaviest(first(stage))
    assert stage.compute_loss(stage.model, heaviest, 0)[LOSS].weight == 4


def test_validation_tells_how_often_the_preferred_answer_is_ahead(folder: Path) -> None:
    stage = make(folder)
    found = stage.validate(stage.model, 4)
    pairs = stage.prepare_validation(4)
    with torch.no_grad():
        ahead = [log_of(stage.model, stage, pair, 0) > log_of(stage.model, stage, pair, 1) for pair in pairs]
    assert found["preferred"] == (float(sum(ahead)), len(pairs)) and found[LOSS].weight == len(pairs)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_last_bit_and_is_evaluated(folder: Path) -> None:
    stages = [{**PREFER, "validate": {"every": 2, "samples": 4}}]
    runs = folder / "runs"
    whole = trained(written(folder / "whole", recipe(name="whole", stages=stages), PAIRED), runs)
    path = written(folder / "cut", recipe(name="cut", stages=stages), PAIRED)
    cut_off(path, runs, "prefer", 3)
    run = trained(path, runs)
    assert trace(run, "prefer") == trace(whole, "prefer") and len(trace(run, "prefer")) == 4
    assert differing(weights(run, "prefer"), weights(whole, "prefer")) == []
    assert main(["evaluate", str(whole.root), "--on", "films:test"]) == 0
    rows = [row for row in json.loads(whole.results.read_text()) if row["task"] == "preferences"]
    assert [row["metric"] for row in rows] == ["preferred", "preferred_per_token"]
    assert all(0 <= row["value"] <= 1 and {"blind", "shuffled"} <= row["baselines"].keys() for row in rows)
