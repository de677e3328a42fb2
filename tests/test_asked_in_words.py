"""A decoder that texts ask for its masks: trained in drawn wordings and questions, asked by each name in evaluation and
on files, and exported with its text tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm import api
from medvlm.compositions._open import open_model
from medvlm.core.ask import Ask
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.io.images import encode_png
from tests.labelled_run import ENCODER, FIT, recipe, write_run
from tests.stages.batches import first
from tests.tiny_run import staged, trained

PHRASES = ["The bright square.", "What is brighter than the noise."]
UNET: dict[str, Any] = {
    "kind": "text_unet",
    "classes": ["square"],
    "widths": [4, 6, 8],
    "prompts": ["text", "question"],
    "texts": {"square": PHRASES},
    "about": {"film": "A film."},
}
TOWER = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {"kind": "transformers", "config": {**TOWER, "intermediate_size": 16}, "vocabulary": 400}
STAGE = {
    **FIT,
    "losses": {"square": ["dice", "binary_cross_entropy"]},
    "steps": 2,
    "batch": 4,
    "trains": ["decoders"],
    "text": TEXT,
}


def write(folder: Path, decoder: dict[str, Any] = UNET, **stage: Any) -> Path:
    model = {"encoders": {"film": ENCODER}, "decoders": {"square": decoder}}
    return write_run(folder, recipe(model=model, stages=[{**STAGE, **stage}]))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("asked"))


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    return trained(path, path.parent / "runs")


def test_wordings_and_questions_are_drawn_by_the_position(path: Path) -> None:
    stage = staged(path, path.parent / "stage", "fit")
    source = stage.setup.open_source("films", "train", stage.wants)
    drawn = [stage.prepare_sample(*source.read(0), epoch=0, position=n).prompts["square"][0] for n in range(12)]
    again = stage.prepare_sample(*source.read(0), epoch=0, position=5).prompts["square"][0]
    question = next(q.text for q in source.read(0)[0].questions if q.template == "square")
    known = {tuple(stage.tokenize(text)) for text in (*PHRASES, question)}
    assert again == drawn[5] and {each.ids["asked"] for each in drawn} == known
    assert {each.ids["about"] for each in drawn} == {tuple(stage.tokenize("A film."))}


def test_only_the_decoder_learns_and_a_batch_without_an_object_reaches_all_of_it(path: Path) -> None:
    stage = staged(path, path.parent / "stage", "fit")
    assert not any(p.requires_grad for p in stage.model.text.parameters())
    (micro,), (none,) = stage.make_micros(first(stage), 1), stage.make_micros([], 1)
    for batch in (micro, none):
        stage.model.zero_grad()
        sum(each.sum for each in stage.compute_loss(stage.model, batch, 0).values()).backward()
        grads = [p.grad for p in stage.model.decoders.parameters()]
        assert all(grad is not None for grad in grads) and any(grad.any() for grad in grads) == (batch is micro)


@pytest.mark.slow
def test_each_name_is_asked_and_the_folder_answers_the_same(run: RunFolder, tmp_path: Path) -> None:
    rows = api.evaluate(run.root, ["films:test"])
    assert any(row["metric"] == "dice" for row in rows)
    api.export(run.root, tmp_path / "exported")
    path = run.root.parent.parent / "recipe.yaml"
    source, asks = staged(path, tmp_path / "stage", "fit").setup.open_source("films", "train", lambda entry: True), []
    for i in range(3):
        sample, files = source.read(i)
        asks += [Ask(sample, files, q) for q in sample.questions if q.template == "square"]
    one, other = (open_model(where)[0] for where in (run.root, tmp_path / "exported"))
    assert one.decode(asks) == other.decode(asks)  # type: ignore[attr-defined]
    file, to = tmp_path / "film.png", tmp_path / "mask.png"
    file.write_bytes(encode_png(np.random.default_rng(0).integers(0, 90, (40, 60), np.uint8)))
    for settings in ({}, {"words": "the bright one"}):
        (found,) = api.segment(run.root, file, to, **settings)  # type: ignore[arg-type]
        assert found.name == "square"
    with pytest.raises(RecipeError, match="--box: decoder square reads no box, only texts"):
        api.segment(run.root, file, to, box=[(1, 1, 5, 5)])


@pytest.mark.parametrize(
    ("decoder", "stage", "message"),
    [
        ({}, {"text": None}, "decoder square reads texts; name the text tower"),
        ({"texts": {"squares": ["x"]}}, {}, "there is no class 'squares'"),
        ({"prompts": ["box"], "texts": {}}, {}, "prompts: box cannot be read"),
        ({"about": {}, "modulates": "about"}, {}, "write `about`"),
        ({"modulates": "none", "head": "plain"}, {}, "nothing reads what is asked for"),
    ],
)
def test_what_cannot_be_is_refused(decoder: Any, stage: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        api.validate(write(tmp_path, {**UNET, **decoder}, **stage))


def test_a_decoder_that_cannot_read_and_a_text_tower_that_nothing_reads_are_refused(tmp_path: Path) -> None:
    sam = {"kind": "sam", "classes": ["square"], "width": 16, "heads": 2, "layers": 1, "mlp": 16, "prompts": ["text"]}
    with pytest.raises(RecipeError, match="sam reads no texts; leave out text and question"):
        api.validate(write(tmp_path / "sam", sam))
    mask = {"kind": "conv_mask", "classes": ["square"], "width": 16}
    with pytest.raises(RecipeError, match="no decoder reads texts; remove it"):
        api.validate(write(tmp_path / "mask", mask, losses={"square": ["dice"]}))
