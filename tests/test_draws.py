"""A language model that draws: trained on text and masks together, resumed, evaluated, asked for the mask of a file,
and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm import api
from medvlm.compositions._drawing import check_tokens
from medvlm.compositions._open import open_model
from medvlm.core.ask import Ask
from medvlm.core.decoder_config import MISSING
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.io.images import decode, encode_png
from medvlm.models.sliding import Windows
from medvlm.objectives.presence import find_presence
from tests.stages.batches import first
from tests.tiny_run import CARD, LANGUAGE, ROOT, TOWER, recipe, run_ranks, staged, stop_after, trained, written

STRUCTURES = ["nodule", "cavity", "band", "consolidation", "clip"]
MASKED = {**CARD, "name": "masked", "reader": {**CARD["reader"], "masks": True}}  # type: ignore[dict-item]
MODEL: dict[str, Any] = {
    "encoders": {"film": {**TOWER, "connector": {"kind": "mlp"}}},
    "language": {"kind": "causal", "config": LANGUAGE, "vocabulary": 512, "special_tokens": ["[SEG]"]},
    "decoders": {
        "structures": {
            "kind": "seg_token",
            "classes": STRUCTURES,
            "asks": ["Segment the {names}.", "Mark the {names}."],
            "width": 16,
            "heads": 2,
            "layers": 1,
            "pixel_width": 4,
        }
    },
}
DRAW: dict[str, Any] = {
    "name": "draw",
    "kind": "supervised",
    "mix": {"films": 1},
    "trains": ["encoders", "connectors", "language", "decoders"],
    "tasks": ["mask", "choice"],
    "questions": 2,
    "draws": {"structures": {"losses": ["dice", "binary_cross_entropy"]}},
    "steps": 4,
    "batch": 8,
    "save_every": 2,
    "optim": {"lr": 1.0e-2},
}


def write(folder: Path, model: dict[str, Any] = MODEL, **changes: Any) -> Path:
    return written(folder, recipe(model=model, stages=[{**DRAW, **changes}], export={"target": "custom"}), MASKED)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("draws") / "recipe")


@pytest.fixture(scope="module")
def stage(path: Path) -> Any:
    return staged(path, path.parent / "runs", "draw")


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    return trained(path, path.parent / "runs")


def say(stage: Any, ids: list[int]) -> str:
    return str(stage.setup.tokenizer.decode(ids)).strip()


def test_each_token_of_an_answer_draws_the_structure_that_is_named_before_it(stage: Any) -> None:
    view, seen = stage.setup.open_source("films", "train", stage.wants), list[tuple[int, bool]]()
    token = stage.setup.tokenizer.convert_tokens_to_ids("[SEG]")
    decoder = stage.setup.model.decoders["structures"]
    for i in range(24):
        sample, files = view.read(i % len(view))
        document = stage.prepare_sample(sample, files, epoch=0, position=i)
        (mask,) = (q for q in sample.questions if q.truth.task == "mask")
        whole = stage.setup.prepare.labels(sample, mask, files, decoder)
        assert all(document.branches[s.branch][0][s.at] == token for s in document.strokes)
        assert sum(ids.count(token) for ids, _ in document.branches) == len(document.strokes)
        seen.append((len(document.strokes), bool(document.strokes)))
        start: dict[int, int] = {}
        for stroke in document.strokes:
            ids, skipped = document.branches[stroke.branch]
            assert stroke.at >= skipped, "it is in the answer"
            name = say(stage, ids[start.get(stroke.branch, skipped) : stroke.at]).strip(" ,")
            start[stroke.branch] = stroke.at + 1
            assert np.array_equal(stroke.label[0].numpy(), whole[STRUCTURES.index(name)])
            assert name in say(stage, [*document.prefix, *ids[:skipped]]), "the question asks for it"
    assert {count for count, _ in seen} == {0, 1, 2}, "films without a drawn question, and with one or two structures"


def test_structures_that_are_there_and_that_are_not_are_asked_for_alike(stage: Any) -> None:
    view, present = stage.setup.open_source("films", "train", stage.wants), list[int]()
    for i in range(200):
        sample, files = view.read(i % len(view))
        _, targets = stage.drawing.speak(sample, files, i, stage.setup.prepare)
        present += [int(find_presence(label[None])) for target in targets.values() for label in target.labels_K1]
    assert 0.42 < np.mean(present) < 0.58


def test_masks_do_not_depend_on_what_shares_a_row_or_a_batch(stage: Any) -> None:
    """The losses of a batch are the sums of those of its documents, each alone."""
    stage.model.eval()
    prepared = first(stage)
    whole = stage.setup.prepare.collate(prepared, stage.setup.tokenizer.pad_token_id, width=100)
    parts = stage.make_micros(prepared, len(prepared))
    assert len(whole.docs_BT) < len(prepared), "documents share rows"
    together = stage.compute_loss(stage.model, whole, 0)
    alone = [stage.compute_loss(stage.model, part, 0) for part in parts]
    weights = [stage.weigh(part) for part in parts]
    for name, weight in stage.weigh(whole).items():
        assert weight == pytest.approx(sum(each[name] for each in weights)) and weight > 0
        total = sum(each[name].sum.item() for each in alone)
        assert together[name].sum.item() == pytest.approx(total, rel=2e-4), name


def test_losses_of_masks_are_of_present_structures_and_presence_is_of_all(stage: Any) -> None:
    stage.model.eval()
    (micro,) = stage.make_micros(first(stage), 1)
    found, outputs = stage.compute_loss(stage.model, micro, 0), stage.model(micro)
    labels = micro.drawn["structures"].labels_S1
    there = labels.flatten(1).any(1)
    assert 0 < there.sum() < len(there) and not (labels == MISSING).any()
    logits, wanted = outputs["decoders.structures"][there].double(), labels[there].double()
    assert found["structures.binary_cross_entropy"].weight == wanted.numel()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    assert found["structures.binary_cross_entropy"].sum.item() == pytest.approx(expected.item(), rel=1e-5)
    soft, wanted = logits.sigmoid().flatten(1), wanted.flatten(1)
    dice = 1 - (2 * (soft * wanted).sum(1) + 1) / (soft.sum(1) + wanted.sum(1) + 1)
    assert found["structures.dice"].sum.item() == pytest.approx(dice.sum().item(), rel=1e-5)
    assert found["structures.presence"].weight == len(labels)


def test_a_batch_that_draws_nothing_still_has_the_decoder_in_its_graph(stage: Any) -> None:
    """Else its rank would wait for gradients that the others have, and they for its own."""
    stage.set_modes()
    prepared = [item for item in first(stage) if not item.strokes][:2]
    (micro,) = stage.make_micros(prepared, 1)
    assert prepared and not micro.drawn
    found = stage.compute_loss(stage.model, micro, 0)
    assert stage.weigh(micro)["structures.presence"] == 0 and found["structures.presence"].sum == 0
    sum(loss.sum for name, loss in found.items() if name in stage.weigh(micro)).backward()
    gradients = [p.grad for p in stage.model.decoders.parameters()]
    stage.model.zero_grad()
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_it_resumes_where_it_was_stopped(path: Path, run: RunFolder) -> None:
    log = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    steps = [line for line in log if "loss" in line]
    assert {"text", "structures.dice", "structures.presence", "structures.presence_accuracy"} <= steps[-1][
        "terms"
    ].keys()
    other = path.parent / "stopped"
    assert stop_after(path, other, 2) == 75
    again = trained(path, other)
    losses = [
        [json.loads(x)["loss"] for x in each.metrics.read_text().splitlines() if '"loss"' in x] for each in (run, again)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_two_ranks_lose_what_one_does_also_where_one_draws_nothing(path: Path, run: RunFolder) -> None:
    two = path.parent / "two"
    run_ranks(ROOT / "tests" / "train" / "mixture_ranks.py", path, two)
    logs = [each.metrics.read_text().splitlines() for each in (run, RunFolder(two / "tiny"))]
    found = [[json.loads(line)["loss"] for line in lines if '"loss"' in line] for lines in logs]
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_it_is_evaluated_with_another_film_and_by_what_is_there_and_what_is_not(run: RunFolder) -> None:
    api.evaluate(run.root, ["films:test"], overrides=["evaluate.protocols=[predictions, answers]"])
    rows = {row["metric"]: row for row in json.loads(run.results.read_text())}
    for metric in ("dice", "iou_marked", "left_empty"):
        row = rows[metric]
        assert 0 <= row["value"] <= 1 and {"shuffled", "majority"} <= row["baselines"].keys()
    assert rows["left_empty"]["baselines"]["majority"] == 1, "an empty mask is the best constant of what is absent"
    assert "accuracy" in rows, "it still answers in words"


def test_only_what_the_answer_names_is_drawn_and_a_structure_that_is_absent_is_empty(
    stage: Any, run: RunFolder
) -> None:
    (model,) = open_model(run.root)
    opened: Any = model
    source = stage.setup.open_source("films", "train", stage.wants)
    sample, files = source.read(0)
    (question,) = (q for q in sample.questions if q.truth.task == "mask")
    with torch.no_grad():
        opened.model.decoders["structures"].present.proj_out.weight.zero_()
        opened.model.decoders["structures"].present.proj_out.bias.fill_(-1.0)
    (absent,) = opened.decode([Ask(sample, files, question)])
    assert set(absent.partition(" ")[2]) <= {"|"}, "nothing is marked"
    assert opened.decode([Ask(sample, files, question, "none")]) == [None]
    ids = opened.tokenizer("clip [SEG], nodule [SEG]", add_special_tokens=False).input_ids
    assert list(opened._find_names(ids, opened.decoders["structures"]).values()) == ["clip", "nodule"]


def test_the_mask_of_a_file_has_its_size(run: RunFolder, tmp_path: Path) -> None:
    file, to = tmp_path / "film.png", tmp_path / "mask.png"
    file.write_bytes(encode_png(np.random.default_rng(0).integers(0, 256, (50, 70), np.uint8)))
    with pytest.raises(RecipeError, match="a PNG cannot hold 5 classes that overlap"):
        api.segment(run.root, file, to)
    (found,) = api.segment(run.root, file, to, only=["nodule"], page=tmp_path / "page.html")
    mask = decode(to.read_bytes(), "mask.png")
    assert found.name == "nodule" and mask.shape == (50, 70) and found.pixels == int(mask.sum())
    with pytest.raises(RecipeError, match="has no class 'nodul', did you mean 'nodule'"):
        api.segment(run.root, file, to, only=["nodul"])


@pytest.mark.slow
def test_the_exported_folder_draws_the_same(stage: Any, run: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    api.export(run.root, folder)
    source = stage.setup.open_source("films", "train", stage.wants)
    asks = []
    for i in range(4):
        sample, files = source.read(i)
        asks += [Ask(sample, files, q) for q in sample.questions if q.truth.task == "mask"]
    trained_, exported = (open_model(where)[0] for where in (run.root, folder))
    assert "decode" in exported.can and trained_.decode(asks) == exported.decode(asks)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_volumes_are_drawn_on_too(tmp_path: Path) -> None:
    """Trained, asked for a mask of a question, and for that of a volume on its own voxels."""
    ready = {"size": [24, 32, 32], "channels": 1, "mean": [0.5], "std": [0.5], "window": [-1000, 400]}
    encoder = {"kind": "monai", "net": "ViT", "patch": [12, 16, 16], "width": 16, "preprocess": ready}
    encoder |= {"layers": 1, "heads": 2, "connector": {"kind": "mlp"}}
    decoders = {"structures": {**MODEL["decoders"]["structures"], "stride": 2}}
    whole = recipe(
        model={**MODEL, "encoders": {"volume": encoder}, "decoders": decoders},
        stages=[{**DRAW, "tasks": ["mask"], "questions": 1, "steps": 2, "batch": 4}],
        export={"target": "custom"},
    )
    reader = {"kind": "phantom", "volumes": 20, "masks": True, "volume_size": [24, 40, 48]}
    path = written(tmp_path / "recipe", whole, {**MASKED, "media": ["volume"], "reader": reader})
    run = trained(path, tmp_path / "runs")
    (opened,) = open_model(run.root)
    view = staged(path, tmp_path / "runs", "draw").setup.open_source("films", "train", lambda entry: True)
    sample, files = view.read(0)
    (question,) = (q for q in sample.questions if q.truth.task == "mask")
    (answer,) = opened.decode([Ask(sample, files, question)])  # type: ignore[attr-defined]
    assert answer.partition(" ")[0] == "24x32x32" and answer.count("|") == 4
    masks = opened.segment(sample, files, "structures", Windows())  # type: ignore[attr-defined]
    assert masks.shape == (5, 24, 40, 48) and masks.dtype == bool


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (
            {"language": {"special_tokens": []}},
            {},
            r"\[SEG\] is no token of the language model; add language.special_tokens",
        ),
        (
            {
                "language": {"special_tokens": ["[DRAW]"]},
                "decoders": {"structures": {"token": "[DRAW]"}},
            },
            {},
            r"token: \[DRAW\] is a control token, which no answer can hold; use \[SEG\]",
        ),
        (
            {"decoders": {"structures": {"asks": ["Segment the {names} by [SEG]."]}}},
            {},
            r"asks: 'Segment the {names} by \[SEG\]\.' holds \[SEG\], which answers alone hold; leave it out",
        ),
        (
            {},
            {"draws": {"structure": {"losses": ["dice"]}}},
            "there is no decoder 'structure', did you mean 'structures'",
        ),
        ({}, {"draws": {"structures": {"losses": ["cross_entropy"]}}}, "needs exclusive classes"),
        ({}, {"draws": {}}, "mask is drawn by a decoder; add `draws`"),
        ({}, {"tasks": ["choice"]}, "`tasks` has none that is drawn; add mask"),
        ({}, {"shows": ["report"], "tasks": []}, "`shows` has no media, so there is nothing to draw on"),
        (
            {"decoders": {"structures": {"classes": ["nodul"]}}},
            {},
            "no card has the class 'nodul', did you mean 'nodule'",
        ),
    ],
)
def test_what_cannot_draw_is_refused_before_anything_runs(
    model: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    changed = {**MODEL, **{part: {**MODEL[part]} for part in MODEL}}
    for part, settings in model.items():
        for name, value in settings.items():
            changed[part][name] = {**changed[part][name], **value} if isinstance(value, dict) else value
    with pytest.raises(RecipeError, match=message):
        api.validate(write(tmp_path, changed, **changes))


def test_a_control_token_of_a_ready_tokenizer_is_refused_too(stage: Any) -> None:
    decoder = stage.setup.model.decoders["structures"]
    check_tokens({"structures": decoder}, stage.setup.tokenizer)
    with pytest.raises(RecipeError, match=r"model\.decoders\.structures\.token: </s> is a control token"):
        check_tokens({"structures": decoder.model_copy(update={"token": "</s>"})}, stage.setup.tokenizer)


def test_a_stage_of_decoders_refuses_one_that_reads_a_language_model(tmp_path: Path) -> None:
    heads = {"name": "fit", "kind": "heads", "mix": {"films": 1}, "trains": ["decoders"], "steps": 1}
    whole = recipe(model=MODEL, stages=[{**heads, "losses": {"structures": ["dice"]}}])
    with pytest.raises(RecipeError, match="reads a language model; train it in a supervised stage"):
        api.validate(written(tmp_path, whole, MASKED))
