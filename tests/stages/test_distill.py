"""Learning from a teacher, against the two stock language models on each drawn answer by itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medvlm import cli
from medvlm.commands.lineage import describe_lineage
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.data.rows import collate
from medvlm.recipe.load import load
from medvlm.train.terms import LOSS
from tests.stages.batches import first
from tests.tiny_run import (
    INSTRUCT,
    LANGUAGE,
    TOWER,
    cut_off,
    differing,
    recipe,
    staged,
    trace,
    trained,
    weights,
    written,
)

SEEN: Any = TOWER["config"]
FINER = {**TOWER, "config": {**SEEN, "image_size": 48}, "connector": {"kind": "mlp"}}
LARGER: dict[str, Any] = {
    "encoders": {"film": FINER},
    "language": {"kind": "causal", "config": {**LANGUAGE, "hidden_size": 24}, "vocabulary": 512},
}
TEACH: dict[str, Any] = {**INSTRUCT, "lora": None, "trains": ["connectors", "language"], "steps": 2, "name": "teach"}
LEARN: dict[str, Any] = {
    "name": "learn", "kind": "distill", "mix": {"films": 1}, "trains": ["connectors", "language"],
    "tasks": ["choice", "count"], "max_new_tokens": 5, "steps": 4, "batch": 4, "save_every": 2, "optim": {"lr": 1.0e-2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distill")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> RunFolder:
    """A larger model, which sees more pixels."""
    return trained(written(folder / "teacher", recipe(name="larger", model=LARGER, stages=[TEACH])), folder / "runs")


def make(folder: Path, teacher: RunFolder, **changes: Any) -> Any:
    config = {**LEARN, "teacher": f"{teacher.root}:teach", **changes}
    stage = staged(written(folder / "recipe", recipe(stages=[config])), folder / "runs", "learn")
    stage.begin()
    return stage


def logits_of(model: Any, document: Any, prepare: Any, ids: list[int]) -> torch.Tensor:
    """[T, V] that predict the tokens of an answer: the model on the plain sequence of question and answer."""
    plain = copy.copy(document)
    object.__setattr__(plain, "prefix", [*document.prefix, *(token for own, _ in document.branches for token in own)])
    object.__setattr__(plain, "branches", [(ids, 0)])
    batch = collate([plain], prepare.image_tokens, 0)
    return model.language(inputs_embeds=model.embed(batch)).logits[0, -len(ids) - 1 : -1]


@pytest.mark.parametrize("beta", [1.0, 0.0])
def test_the_loss_and_its_gradient_are_those_of_each_answer_by_itself(
    folder: Path, teacher: RunFolder, beta: float
) -> None:
    stage = make(folder, teacher, beta=beta)
    prompts = first(stage)
    (micro,) = stage.make_micros(prompts, 1)
    measured = stage.compute_loss(stage.model, micro, 0)
    learned = [p for p in stage.model.parameters() if p.requires_grad]
    found = torch.autograd.grad(measured[LOSS].sum, learned)
    answers = micro.batch.targets_L.split(micro.lengths_A.tolist())
    assert len({tuple(each.tolist()) for each in answers}) > 1, "drawn, and not the same each time"
    losses = []
    for prompt, ids in zip(prompts, answers, strict=True):
        seen = stage.teacher.make_prompt(prompt.sample, prompt.files, prompt.question, 0)
        assert seen.document.media[0][1].shape[-1] == 48 and prompt.document.media[0][1].shape[-1] == 32
        p = logits_of(stage.model, prompt.document, stage.setup.prepare, ids.tolist()).log_softmax(-1)
        q = logits_of(stage.teacher.model, seen.document, stage.teacher.setup.prepare, ids.tolist()).log_softmax(-1)
        losses.append((p.exp() * (p - q) if beta else q.exp() * (q - p)).sum())
    expected = torch.stack(losses).sum()
    assert measured[LOSS].sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert measured[LOSS].weight == int(micro.lengths_A.sum()) == stage.weigh(micro)[LOSS]
    for own, other in zip(found, torch.autograd.grad(expected, learned), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()) + 1e-7)
    assert not any(p.requires_grad for p in stage.teacher.model.parameters())


def test_the_heaviest_micro_batch_has_the_longest_answers(folder: Path, teacher: RunFolder) -> None:
    stage = make(folder, teacher)
    assert stage.compute_loss(stage.model, stage.make_heaviest(first(stage)), 0)[LOSS].weight == 4 * 5


def test_a_teacher_with_other_tokens_or_none_is_refused(folder: Path, teacher: RunFolder) -> None:
    model = {**LARGER, "language": {**LARGER["language"], "vocabulary": 400}}
    other = trained(written(folder / "other", recipe(name="other", model=model, stages=[TEACH])), folder / "runs")
    with pytest.raises(RecipeError, match=r"stages\.learn\.teacher: .*has other tokens"):
        make(folder, other)
    path = written(folder / "nowhere", recipe(stages=[{**LEARN, "teacher": "the best one"}]))
    with pytest.raises(RecipeError, match=r"stages\.learn\.teacher.*is no model outside of this run"):
        load(path)
    path = written(folder / "missing", recipe(name="missing", stages=[{**LEARN, "teacher": f"{folder}/nothing:here"}]))
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+:\d+ stages\.learn\.teacher: .*is not a run folder"):
        trained(path, folder / "runs")


def test_the_student_comes_closer_resumes_to_the_last_bit_and_knows_its_teacher(
    folder: Path, teacher: RunFolder
) -> None:
    stages = [{**LEARN, "teacher": f"{teacher.root}:teach", "steps": 8, "validate": {"every": 4, "samples": 8}}]
    runs = folder / "runs"
    whole = trained(written(folder / "whole", recipe(name="whole", stages=stages)), runs)
    losses = [float.fromhex(step[2]["loss"]) for step in trace(whole, "learn")]
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2]), losses
    path = written(folder / "cut", recipe(name="cut", stages=stages))
    cut_off(path, runs, "learn", 5)
    run = trained(path, runs)
    assert trace(run, "learn") == trace(whole, "learn") and len(trace(run, "learn")) == 8
    assert differing(weights(run, "learn"), weights(whole, "learn")) == []
    assert "larger:teach" in json.loads((whole.stage("learn") / "stage.json").read_text())["teachers"]["teacher"]
    assert "    teacher: larger:teach/step-2@" in "\n".join(describe_lineage(f"{whole.root}:learn").lines)
    moved = yaml.safe_load(path.read_text())
    moved["stages"][0]["teacher"] = f"{whole.root}:learn"
    path.write_text(yaml.safe_dump(moved))
    with pytest.raises(CheckpointError, match="settings, data or starting weights have changed"):
        trained(path, runs)


@pytest.mark.slow
def test_a_rehearsal_needs_no_teacher(folder: Path, tmp_path: Path) -> None:
    stages = [TEACH, {**LEARN, "teacher": f"{folder}/nothing:here"}]
    path = written(tmp_path, recipe(name="rehearsed", stages=stages))
    assert cli.main(["dry-run", str(path)]) == 0
