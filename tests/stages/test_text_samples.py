"""Samples without media beside samples with media, in one stage and one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm.cli import main
from medvlm.core.errors import RecipeError
from medvlm.preflight.plan import plan
from medvlm.recipe.load import load
from tests import tiny_run
from tests.stages.batches import first, loss_of, weight_of

SIDES = ("left", "right")
TEXTS = {
    **tiny_run.CARD,
    "name": "texts",
    "access": "open",
    "media": [],
    "splits": {"by": "image"},
    "reader": {
        "kind": "table",
        "file": "t.csv",
        "key": "{n}",
        "questions": [{"text": "Case {n}: which side?", "answer": "{side}", "choices": [*SIDES]}],
    },
}
STAGE = {**tiny_run.INSTRUCT, "mix": {"films": 1, "texts": 1}, "tasks": [], "without_media": True}


def write(folder: Path, **changes: Any) -> Path:
    stage = {**STAGE, **changes}
    content = tiny_run.recipe(stages=[{name: value for name, value in stage.items() if value is not None}])
    content["data"]["texts"] = {"card": "texts.yaml", "root": str(folder / "raw")}
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    rows = [f"{n},{SIDES[n % 3 % 2]}" for n in range(60)]
    (folder / "raw" / "t.csv").write_text("\n".join(["n,side", *rows]))
    path = tiny_run.written(folder, content)
    (folder / "texts.yaml").write_text(yaml.safe_dump(TEXTS))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


def test_a_sample_has_the_loss_that_it_has_alone(folder: Path) -> None:
    stage = tiny_run.staged(write(folder, questions=3), folder / "runs", "instruct")
    stage.model.eval()
    prepared = first(stage)
    assert len({bool(document.media) for document in prepared}) == 2, "one kind of sample: the test shows nothing"
    (mixed,) = stage.make_micros(prepared, 1)
    alone = [stage.make_micros([document], 1)[0] for document in prepared]
    assert weight_of(stage, mixed) == sum(weight_of(stage, each) for each in alone)
    losses = [loss_of(stage, each).item() for each in alone]
    assert loss_of(stage, mixed).item() == pytest.approx(sum(losses), rel=1e-5)
    texts = [loss for loss, document in zip(losses, prepared, strict=True) if not document.media]
    (only,) = stage.make_micros([document for document in prepared if not document.media], 1)
    assert not only.media and loss_of(stage, only).item() == pytest.approx(sum(texts), rel=1e-5)


def test_without_the_key_they_are_refused_and_the_message_names_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages.instruct.mix.texts: its card has no media.*`without_media: true`"):
        load(write(tmp_path, without_media=None))
    with pytest.raises(RecipeError, match=r"texts: the questions of its card are of choice.*asks only those of count"):
        load(write(tmp_path, tasks=["count"]))
    with pytest.raises(RecipeError, match="without_media: boxes are written in coordinates of an image; add a task"):
        load(write(tmp_path, tasks=["boxes"]))
    with pytest.raises(RecipeError, match="without_media: `shows` has no media, so no sample needs any; remove it"):
        load(write(tmp_path, shows=["report"]))


def test_boxes_are_asked_with_an_image_only(folder: Path) -> None:
    stage = tiny_run.staged(write(folder), folder / "runs", "instruct")
    assert "boxes" in stage.config.asked_tasks and "boxes" not in stage.config.text_tasks
    films, texts = (stage.setup.open_source(name, "train", stage.wants) for name in ("films", "texts"))
    sample, files = films.read(0)
    boxes = [question for question in sample.questions if question.truth.task == "boxes"]
    assert boxes and stage.prepare_sample(sample, files, 0, 0).media
    stage.config = stage.config.model_copy(update={"tasks": ("boxes", "choice")})
    sample, files = texts.read(0)
    for epoch in range(3):
        assert not stage.prepare_sample(sample, files, epoch, 0).media


@pytest.mark.slow
def test_a_plan_and_a_dry_run_know_both(folder: Path) -> None:
    path = write(folder)
    (stage,) = plan(load(path), folder / "runs", None).stages
    assert not stage.notes and stage.memory
    assert main(["dry-run", str(path), "--runs", str(folder / "runs")]) == 0


def test_a_stage_with_rewards_asks_both_kinds_of_samples(folder: Path) -> None:
    """Only the images of those that have some can be missed."""
    gone = dict.fromkeys(STAGE)
    rewards = {"choice": 1.0, "grounded": 1.0}
    settings = {**gone, **tiny_run.REASON, "mix": STAGE["mix"], "rewards": rewards, "without_media": True}
    settings |= {"lora": {"rank": 2}, "batch": 8}
    stage = tiny_run.staged(write(folder / "rewards", **settings), folder / "runs", "reason")
    prompts = first(stage)
    assert {bool(prompt.sample.media) for prompt in prompts} == {True, False}
    (rollout,) = stage.make_micros(prompts, 1)
    parts = {
        bool(p.sample.media): {*own[0][1]} for p, own in zip(rollout.drawn.prompts, rollout.drawn.scored, strict=True)
    }
    assert "grounded" in parts[True] and "grounded" not in parts[False]
    assert loss_of(stage, rollout).isfinite()
    with pytest.raises(RecipeError, match="without_media: boxes are written in coordinates"):
        write(folder / "boxes", **settings | {"tasks": ["boxes"], "rewards": {"boxes": 1.0}}) and load(
            folder / "boxes" / "recipe.yaml"
        )
