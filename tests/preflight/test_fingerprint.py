"""Proposals by nnU-Net's rules against plans that its planner made, and a proposal that trains as it is printed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from medvlm import api, cli
from medvlm.commands.fingerprint import _describe_intensities
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.images import encode_npy
from medvlm.preflight.fingerprint import Shapes, choose_network, choose_spacing, count_numbers, propose

PLANS = json.loads((Path(__file__).parent / "nnunet_plans.json").read_text())
"""Made by nnU-Net 2: see `made_by` in the file."""


@pytest.mark.parametrize("name", PLANS["plans"])
def test_a_proposal_is_the_plan_of_nnunet(name: str) -> None:
    given, expected = (PLANS["plans"][name][key] for key in ("given", "plan"))
    sizes, spacings = (np.tile(np.array(given[key], float), (given["times"], 1)) for key in ("sizes", "spacings"))
    shapes = Shapes(sizes, spacings, given["channels"], given["maps"])
    made = propose(shapes, given["gpu_gib"])
    assert list(made.network.patch) == expected["patch_size"] and made.batch == expected["batch_size"]
    assert made.spacing_mm == pytest.approx(expected["spacing"], abs=1e-6)
    assert [list(each) for each in made.network.strides] == expected["strides"]
    assert [list(each) for each in made.network.kernels] == expected["kernel_sizes"]
    assert list(made.network.widths) == expected["features_per_stage"]
    assert count_numbers(made.network, shapes) == expected["estimate"]


def test_thick_slices_keep_a_spacing_that_invents_few_of_them() -> None:
    spacings = np.tile([[10.0, 1.0, 1.0], [4.0, 1.0, 1.0], [10.0, 1.0, 1.0]], (10, 1))
    few, many = (np.tile([[depth, 200, 200]], (30, 1)).astype(float) for depth in (12, 120))
    assert choose_spacing(Shapes(few, spacings))[0] == 4 and choose_spacing(Shapes(many, spacings))[0] == 10
    assert choose_network([10.0, 1.0, 1.0], [12, 64, 64]).kernels[0] == (1, 3, 3)


def write_volumes(folder: Path, spacing: bool = True) -> Path:
    """A card of volumes with a mask of a cube, larger than the memory that is asked for allows."""
    import nibabel

    rng = np.random.default_rng(0)
    (folder / "labels").mkdir(parents=True)
    for number in range(6):
        labels = np.zeros((24, 40, 32), np.uint8)
        labels[8:14, 10:20, 6:16] = 1
        values = np.full(labels.shape, -1000, np.int16)
        values[2:22, 5:35, 4:28] = (rng.normal(0, 20, labels.shape) + 100 * labels)[2:22, 5:35, 4:28]
        for name, array in ((f"{number}.nii", values), (f"labels/{number}.nii", labels)):
            image = nibabel.Nifti1Image(array, np.diag([2.0, 1.0, 1.0, 1.0]))
            image.header.set_xyzt_units("mm")
            nibabel.save(image, folder / name)
    return folder


@pytest.mark.slow  # 6 s: it packs, and trains two steps
def test_a_proposal_is_a_recipe_that_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_volumes(tmp_path / "raw")
    told: dict[str, Any] = dict.fromkeys(("title", "summary", "terms", "citation", "units", "limits"), "made up")
    reader = {
        "kind": "folder",
        "images": r"(?P<name>\d+)\.nii",
        "medium": "scan",
        "unit": "HU",
        "nifti": {"orientation": "RAS"},
        "mask_file": {
            "file": "labels/{name}.nii",
            "values": {"cube": 1},
            "template": "organs",
            "nifti": {"orientation": "RAS"},
        },
    }
    card = {
        **told,
        "name": "cubes",
        "licence": {"id": "MIT", "commercial": True},
        "access": "open",
        "phi": {"status": "none", "note": "made up"},
        "homepage": "https://example.org",
        "language": ["en"],
        "media": ["scan"],
        "splits": {"by": "image", "ratios": {"train": 0.7, "test": 0.3}},
        "reader": reader,
    }
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    assert cli.main(["plan", "--fingerprint", f"{tmp_path / 'card.yaml'}={root}", "--gpu-gib", "0.02"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#") and "training samples of scan, median 32 x 40 x 24 pixels at 1 x 1 x 2 mm" in text
    recipe = yaml.safe_load(text)
    before = recipe["model"]["encoders"]["scan"]["preprocess"]
    low, high = before["window"]
    assert before["spacing_mm"] == [1, 1, 2] and 40 < low < 60 and 140 < high < 160 and before["size"] < [32, 40, 24]
    assert 0.4 < before["mean"][0] < 0.6 and recipe["data"]["masks"]["augment"] == {"patch": {"foreground": 0.33}}
    (tmp_path / "recipe.yaml").write_text(text)
    run = api.train(tmp_path / "recipe.yaml", ["stages.fit.steps=2"], runs=tmp_path / "runs")
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 1


@pytest.mark.parametrize("overlapping", [False, True])
def test_pixels_that_nobody_marked_do_not_set_the_window(overlapping: bool) -> None:
    values = np.full((4, 6, 8), 3000, np.int16)
    values[0] = np.arange(48).reshape(6, 8)
    labels = np.where(values < 48, 1, 255).astype(np.uint8)
    labels = np.stack([labels, np.zeros_like(labels)]) if overlapping else labels
    truth = make_truth("mask", classes=("a", "b"), member="0.mask.npy", unmarked=255, overlapping=overlapping)
    question = Question("?", truth, "organs")
    sample = Sample("k", "ct", "train", (Medium("scan", "0.npy", values.shape, unit="HU"),), questions=(question,))
    files = {"0.npy": encode_npy(values), "0.mask.npy": encode_npy(labels)}
    shards = SimpleNamespace(read=lambda split, number: (sample, files))
    _, before = _describe_intensities(shards, [(sample, question, 0)])
    assert before["window"] == pytest.approx([0.2, 46.8], abs=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan"], "plan needs a RECIPE, or --fingerprint SHARDS"),
        (["plan", "phantom", "--fingerprint", "x"], "plan needs a RECIPE, or --fingerprint SHARDS"),
        (["plan", "--fingerprint", "x", "--gpu-gib", "0"], "--gpu-gib 0: expected the memory of one GPU in GiB"),
        (["plan", "--fingerprint", "nowhere.yaml=root"], "nowhere.yaml: there is no such data card"),
    ],
)
def test_what_is_missing_is_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
