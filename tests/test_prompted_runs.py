"""A decoder that takes prompts, from an archive to a file: trained on boxes drawn from masks, compared with the box
filled in and with the box of another film, asked by a box, and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm import api
from medvlm.compositions._open import open_model
from medvlm.core.ask import Ask
from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.data.prompts import draw_prompt
from medvlm.io.images import decode, encode_png
from tests.labelled_run import ENCODER, FIT, recipe, write_run
from tests.stages.batches import first
from tests.tiny_run import staged, stop_after, trained

SAM: dict[str, Any] = {"kind": "sam", "classes": ["square"], "width": 16, "heads": 2, "layers": 1, "mlp": 16}
BOXED = {**SAM, "prompts": ["box", "point"], "jitter_px": 2, "points": 2, "iou": 0.5}
STAGE = {**FIT, "losses": {"square": ["dice", "binary_cross_entropy"]}, "steps": 4, "batch": 4}


def write(folder: Path, decoder: dict[str, Any] = BOXED, **stage: Any) -> Path:
    model = {"encoders": {"film": ENCODER}, "decoders": {"square": decoder}}
    return write_run(folder, recipe(model=model, stages=[{**STAGE, **stage}]))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("prompted"))


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    return trained(path, path.parent / "runs")


def read_losses(run: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_it_learns_from_prompts_and_resumes_where_it_was_stopped(path: Path, run: RunFolder) -> None:
    whole = read_losses(run)
    assert {"square.dice", "square.binary_cross_entropy", "square.iou"} <= whole[-1]["terms"].keys()
    other = path.parent / "stopped"
    assert stop_after(path, other, 2) == 75
    assert [line["loss"] for line in read_losses(trained(path, other))] == [line["loss"] for line in whole]


def test_each_object_has_the_prompt_of_its_position(path: Path) -> None:
    """The box of a sample is that of its label, and drawn again at another position."""
    stage = staged(path, path.parent / "stage", "fit")
    prompts, labels = [], []
    for position in range(8):
        source = stage.setup.open_source("films", "train", stage.wants)
        item = stage.prepare_sample(*source.read(0), epoch=0, position=position)
        prompts.append(item.prompts["square"][0])
        labels.append(item.labels["square"][0])
    again = stage.prepare_sample(*source.read(0), epoch=0, position=3).prompts["square"][0]
    assert again == prompts[3] and len({each.form for each in prompts}) == 2 and len(set(map(str, prompts))) > 3
    marked = labels[0][0].numpy() == 1
    for prompt in prompts:
        filled = prompt.fill(marked.shape)
        assert filled is None or (filled >= marked).all()


def test_a_micro_batch_without_an_object_still_reaches_every_parameter(path: Path) -> None:
    stage = staged(path, path.parent / "stage", "fit")
    (micro,) = stage.make_micros(first(stage), 1)
    (none,) = stage.make_micros([], 1)
    found = stage.compute_loss(stage.model, none, 0)
    assert set(stage.weigh(none).values()) == {0.0} and found.keys() == stage.compute_loss(stage.model, micro, 0).keys()
    sum(each.sum for each in found.values()).backward()
    gradients = [p.grad for p in stage.model.decoders.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_parts_of_a_batch_add_up_to_it(path: Path) -> None:
    stage = staged(path, path.parent / "stage", "fit")
    stage.model.eval()
    items = first(stage)
    (whole,), parts = stage.make_micros(items, 1), stage.make_micros(items, 4)
    together = stage.compute_loss(stage.model, whole, 0)
    alone = [stage.compute_loss(stage.model, part, 0) for part in parts if part.media]
    for name, loss in together.items():
        assert loss.sum.item() == pytest.approx(sum(each[name].sum.item() for each in alone), rel=1e-4), name
        assert stage.weigh(whole)[name] == pytest.approx(sum(stage.weigh(part)[name] for part in parts))


def test_it_is_compared_with_the_box_filled_in_and_with_another_box(run: RunFolder) -> None:
    api.evaluate(run.root, ["films:test"])
    rows = {row["metric"]: row for row in json.loads(run.results.read_text())}
    baselines = rows["dice"]["baselines"]
    assert {"filled", "misplaced", "shuffled", "majority"} <= baselines.keys()
    assert baselines["filled"] > 0.6, "squares, with a jitter of 2 pixels"
    assert baselines["misplaced"] < baselines["filled"]


def test_what_fills_a_box_has_the_dice_of_its_area(run: RunFolder) -> None:
    (model,) = open_model(run.root)
    opened: Any = model
    source = _open_source(run)
    sample, files, question = next(
        (*source.read(i), q) for i in range(5) for q in source.read(i)[0].questions if q.template == "square"
    )
    ask = Ask(sample, files, question)
    (filled,), (answer,) = opened.decode([Ask(sample, files, question, "prompt")]), opened.decode([ask])
    assert opened.decode([ask]) == [answer] and opened.decode([Ask(sample, files, question, "none")]) == [None]
    assert opened.place_truth(ask).runs.partition(" ")[0] == filled.partition(" ")[0] == answer.partition(" ")[0]


def _open_source(run: RunFolder) -> Any:
    path = run.root.parent.parent / "recipe.yaml"
    return staged(path, run.root.parent / "stage", "fit").setup.open_source("films", "train", lambda entry: True)


def test_a_file_is_marked_where_a_box_or_a_point_shows_it(run: RunFolder, tmp_path: Path) -> None:
    file, to = tmp_path / "film.png", tmp_path / "mask.png"
    film = np.random.default_rng(0).integers(0, 90, (40, 60), np.uint8)
    file.write_bytes(encode_png(film))
    (found,) = api.segment(run.root, file, to, box=[(3, 4, 20, 30)], page=tmp_path / "page.html")
    mask = decode(to.read_bytes(), "mask.png")
    assert mask.shape == (40, 60) and found.pixels == int(mask.sum())
    api.segment(run.root, file, to, point=[(12, 9, True), (50, 30, False)])
    (several,) = api.segment(run.root, file, to, box=[(3, 4, 20, 30), (30, 4, 50, 30)])
    assert several.pixels >= found.pixels, "the union of both"
    for wrong, message in (
        ({}, "marks what a prompt shows; add --box"),
        ({"box": [(3, 4, 70, 30)]}, "--box: reaches beyond the 60 x 40 pixels"),
        ({"box": [(5, 5, 5, 9)]}, r"--box: \(5, 5, 5, 9\) has no area"),
        ({"box": [(5, 5, 9)]}, r"--box: \(5, 5, 9\) has no area"),
        ({"point": [(5, 5)]}, "--point: .* is not x, y and whether"),
        ({"box": [(3, 4, 20, 30)], "flip": ["width"]}, "--flip: what a prompt shows"),
        ({"box": [(3, 4, 9, 9), (9, 9, 12, 12)], "point": [(4, 4, True)]}, "points are of one object"),
    ):
        with pytest.raises(RecipeError, match=message):
            api.segment(run.root, file, to, **wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_exported_folder_marks_the_same(run: RunFolder, tmp_path: Path) -> None:
    api.export(run.root, tmp_path / "exported")
    source, asks = _open_source(run), []
    for i in range(3):
        sample, files = source.read(i)
        asks += [Ask(sample, files, q) for q in sample.questions if q.template == "square"]
    one, other = (open_model(where)[0] for where in (run.root, tmp_path / "exported"))
    assert one.decode(asks) == other.decode(asks)  # type: ignore[attr-defined]


def test_lora_of_the_encoder_trains_adapters_alone(tmp_path: Path) -> None:
    lora = {"rank": 2, "targets": ["encoders"]}
    path = write(tmp_path, trains=["lora", "decoders.square.mask_decoder"], lora=lora, steps=2)
    stage = staged(path, tmp_path / "runs", "fit")
    trained_ = {name.partition(".lora_")[0] for name, p in stage.model.named_parameters() if p.requires_grad}
    assert trained_ and not any(name.startswith("decoders.square.prompt_encoder") for name in trained_)
    (micro,) = stage.make_micros(first(stage), 1)
    sum(each.sum for each in stage.compute_loss(stage.model, micro, 0).values()).backward()
    factors = [p.grad for name, p in stage.model.named_parameters() if ".lora_B" in name]
    assert factors and all(gradient is not None and gradient.any() for gradient in factors)


@pytest.mark.parametrize(
    ("decoder", "stage", "message"),
    [
        ({"prompts": []}, {}, "prompts"),
        ({"exclusive": True}, {}, "is always false for this kind"),
        ({}, {"losses": {"square": ["cross_entropy"]}}, "needs exclusive classes"),
        ({}, {"blend": {"mixup": 0.2}}, "a prompt of square shows an object of one sample"),
    ],
)
def test_what_cannot_be_is_refused(decoder: Any, stage: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        api.validate(write(tmp_path, {**BOXED, **decoder}, **stage))


def test_a_graph_of_pixels_alone_is_refused(path: Path) -> None:
    with pytest.raises(RecipeError, match="takes prompts, and this graph takes pixels alone"):
        api.validate(path, overrides=["export.target=onnx"])


def test_a_rough_mask_may_be_shifted_out_of_the_input() -> None:
    config = component("decoders", "sam").Config.model_validate({**SAM, "jitter_px": 15, "prompts": ["rough_mask"]})
    rng, mask = np.random.default_rng(0), np.zeros((8, 12), bool)
    mask[2:5, 3:7] = True
    shifted = [draw_prompt(mask, 0, config, rng).mask for _ in range(60)]
    assert {int(each.sum()) for each in shifted if each is not None} >= {0, 12}


def test_objects_of_one_film_are_marked_one_at_a_time() -> None:
    from medvlm.tasks.mask import Truth, list_objects

    mask = np.zeros((4, 6), np.int64)
    mask[0, 0], mask[1, 2:4], mask[3, 5], mask[2, 0] = 1, 3, 2, 9  # classes a, b: 1 and 3 are two of a, 2 is one of b
    truth = Truth(classes=("a", "b"), member="0.mask.png", objects=True, unmarked=9)
    found = list_objects(truth, {"0.mask.png": mask}, ("b", "a"))
    assert [(number, int((labels == 1).sum())) for number, labels in found] == [(0, 1), (1, 1), (1, 2)]
    assert all(labels[2, 0] == -1 and (labels == -1).sum() == 1 for _, labels in found)
    whole = list_objects(truth, {"0.mask.png": mask}, ("a",), True)
    assert [(number, int((labels == 1).sum())) for number, labels in whole] == [(0, 3)]
    assert torch.from_numpy(whole[0][1]).dtype == torch.int64
