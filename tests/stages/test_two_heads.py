"""Two processes that train decoders compute the same as one, although their labels are distributed unevenly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.run import RunFolder
from medvlm.models.decoding import Labelled
from medvlm.models.parts import evaluating
from tests.labelled_run import ENCODER, FIT, OUTCOME_DECODERS, OUTCOME_LOSSES, OUTCOMES, recipe, write_run
from tests.patients_run import LOSSES, write_patients
from tests.stages.two_heads import CASES
from tests.tiny_run import ROOT, run_ranks, staged, trace, trained, weights
from tests.train.two_ranks import STILL, first_step

SAM = {"kind": "sam", "classes": ["square"], "width": 16, "heads": 2, "layers": 1, "mlp": 16, "iou": 0.5}
SHOWN: dict[str, dict[str, Any]] = {
    "boxes": {**SAM, "prompts": ["box", "point"], "jitter_px": 2},
    "texts": {
        "kind": "text_unet", "classes": ["square"], "widths": [4, 6, 8], "texts": {"square": ["a square", "the light"]},
        "modulates": "about", "about": {"film": "A film."},
    },
    "cuts": {**SAM, "kind": "mcp_sam", "prompts": ["box"], "about": {"film": "A film."}, "content": 1.0,
             "modality": 0.0, "crop": {"kind": "timm", "net": "test_vit", "preprocess": ENCODER["preprocess"]}},
}  # fmt: skip
"""Decoders that take prompts. Every fifth film has no mask, so ranks have other numbers of objects."""
SETS: dict[str, Any] = {
    "encoders": {"film": {"kind": "timm", "net": "test_resnet", "levels": [-3, -2, -1], "preprocess": {
        "size": [64, 64], "channels": 1, "mean": [0.5], "std": [0.5]}}},
    "decoders": {"square": {"kind": "mask2former", "classes": ["square"], "width": 32, "heads": 2, "queries": 4,
                            "layers": 1, "mlp": 8, "pixel_layers": 1, "pixel_mlp": 8}},
}  # fmt: skip
ON_SETS = {"square": ["set_classes", "set_masks"]}
ON_SHOWN = {"square": ["dice", "binary_cross_entropy"]}
TOWER = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **STILL}
TEXT = {"kind": "transformers", "config": {**TOWER, "intermediate_size": 16}, "vocabulary": 400}
SUBSPACES = {
    "kind": "subspaces", "classes": ["left", "right"], "reads": "mean", "width": 24, "learners": 2, "memory": 24,
    "every": 1, "patience": 1, "apart": 1.0,
}  # fmt: skip
VECTOR = {"kind": "unit_vector", "reads": "mean", "width": 8}
VECTORS = {
    "side": {**VECTOR, "classes": ["left", "right"]},
    "third": {**VECTOR, "classes": ["first", "second", "last"]},
    "traits": {"kind": "hierarchy", "classes": ["high", "large"], "parents": {"large": "high"}, "answers": "look",
               "reads": "mean", "width": 8},
}  # fmt: skip
VECTOR_LOSSES = {
    "side": ["triplet", "multi_similarity"],
    "third": ["multi_similarity", {"kind": "triplet", "weight": 0.5}],
    "traits": ["conditional_cross_entropy"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("heads")
    write_run(made, recipe())
    model = {"encoders": {"film": ENCODER}, "decoders": OUTCOME_DECODERS}
    write_run(made / "outcomes", recipe(model=model, stages=[{**FIT, "losses": OUTCOME_LOSSES}]), OUTCOMES)
    model = {"encoders": {"film": ENCODER}, "decoders": VECTORS}
    write_run(made / "vectors", recipe(model=model, stages=[{**FIT, "losses": VECTOR_LOSSES}]), OUTCOMES)
    write_patients(made / "patients")
    for place, decoder in SHOWN.items():
        model = {"encoders": {"film": ENCODER}, "decoders": {"square": decoder}}
        shown: dict[str, Any] = {**FIT, "losses": ON_SHOWN, "batch": 8}
        if place != "boxes":
            shown |= {"text": TEXT, "trains": ["decoders", "text"]}
        write_run(made / place, recipe(model=model, stages=[shown]))
    stage = {**FIT, "trains": ["decoders"], "losses": ON_SETS, "sides": {"square": [1.0]}, "batch": 8}
    write_run(made / "sets", recipe(model=SETS, stages=[stage]))
    model = {"encoders": {"film": ENCODER}, "decoders": {"side": SUBSPACES}}
    fit = {**FIT, "losses": {"side": ["distance_margin"]}, "steps": 8, "save_every": 0}
    measured = {"on": ["films:test"], "protocols": ["neighbours"]}
    write_run(made / "subspaces", recipe(model=model, stages=[fit], evaluate=measured))
    return made


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, dict[str, Any]]]:
    """The results of the two ranks. One process packs the archives first."""
    trained(folder / "subspaces" / "recipe.yaml", folder / "subspaces" / "runs", "name=one")
    for place in (folder / place for place in sorted({place for place, _ in CASES.values()})):
        staged(place / "recipe.yaml", place / "runs", "fit")
    run_ranks(ROOT / "tests" / "stages" / "two_heads.py", folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_of_a_step_are_those_of_one_process(
    case: str, folder: Path, two: list[dict[str, dict[str, Any]]]
) -> None:
    """Also of losses that compare the samples of a batch with each other, which are the samples of both ranks."""
    place = folder / CASES[case][0]
    one = first_step(place / "recipe.yaml", place / "runs", "fit")
    first, second = (rank[case] for rank in two)
    assert one["keys"] == first["keys"] + second["keys"]
    kinds = {"": FIT["losses"], "outcomes": OUTCOME_LOSSES, "vectors": VECTOR_LOSSES, "patients": LOSSES}
    kinds |= {**dict.fromkeys(SHOWN, ON_SHOWN), "sets": ON_SETS}
    losses = {name: [each if isinstance(each, str) else each["kind"] for each in of]  # type: ignore[index]
              for name, of in kinds[CASES[case][0]].items()}  # type: ignore[attr-defined]  # fmt: skip
    assert one["terms"].keys() >= {f"{name}.{kind}" for name, of in losses.items() for kind in of}
    assert all(one["terms"].values())
    for rank in (first, second):
        assert rank["terms"] == pytest.approx(one["terms"], rel=1e-6)
        assert rank["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            atol = 1e-5 * max(1.0, float(gradient.abs().max()))
            torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("place", "own"), [("", 4), ("cuts", 4)])
def test_a_rank_that_validates_no_question_counts_the_same_losses(place: str, own: int, folder: Path) -> None:
    """Ranks add up their losses, so one that leaves some out would stop the others."""
    stage = staged(folder / place / "recipe.yaml", folder / place / "runs", "fit")
    with evaluating(stage.model):
        found = stage.compute_loss(stage.model, Labelled({}, {}), 0)
    assert len(found) == own and {each.sum.item() for each in found.values()} == {0}


def test_learners_of_two_processes_join_at_the_same_step_and_get_the_same_units_and_images(
    folder: Path, two: list[dict[str, dict[str, Any]]]
) -> None:
    runs = [RunFolder(folder / "subspaces" / "runs" / name) for name in ("one", "two")]
    one, other = (weights(run, "fit") for run in runs)
    assert one["decoders.side.owner_D"].unique().tolist() == [0, 1], "nobody joined: the test shows nothing"
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)
    losses = [[float.fromhex(numbers["loss"]) for _, _, numbers in trace(run, "fit")] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
