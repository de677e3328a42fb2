"""`medvlm plan` from the command line: its output for shipped recipes, and its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from medvlm.cli import main
from medvlm.core.config import kinds
from medvlm.core.errors import RecipeError
from medvlm.preflight import gpus
from medvlm.preflight.gpus import GIB, parse
from medvlm.preflight.plan import plan
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe import known
from medvlm.recipe.load import find_shipped, load
from tests import tiny_run
from tests.families.variants import mark_slow

WHOLE = [path for path in sorted(find_shipped("recipes").rglob("*.yaml")) if path.parent.name != "base"]
QUICK = ("ain", "bimedix2", "convirt", "med_mat", "medgemma_lora", "polyps")
"""One of each composition, and of a ready model with and without adapters."""
ADAPTED = {**tiny_run.INSTRUCT, "accumulate": 1}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow) for path in WHOLE],
)
def test_every_shipped_recipe_has_a_plan(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path), "--runs", str(tmp_path), "--gpus", "h200:8x2", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    stages = load(path).recipe.stages
    assert [s["name"] for s in made["stages"]] == [s.name for s in stages]
    for stage in made["stages"]:
        assert sum(m["trained"] for m in stage["modules"]) > 0
        assert stage["memory"] and stage["fits"] in (True, False) and stage["flops"] > 0, stage["notes"]
        assert all(
            parts["total"] == pytest.approx(sum(v for k, v in parts.items() if k != "total"), abs=0.01)
            for parts in stage["memory"].values()
        )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tiny_run.written(tmp_path, tiny_run.recipe(stages=[ADAPTED]))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "stages.instruct.trains=[connectors, language.model.layrs, lora]",
            "'language.model.layrs' matches no parameter",
        ),
        (
            "stages.instruct.lora.targets=[language.model.layers.*.q_prj]",
            "'language.model.layers.*.q_prj' matches no linear layer",
        ),
        ("stages.instruct.optim.lr_of={language.model.norm: 2}", "'language.model.norm' matches no trained parameter"),
        (
            "model.language.config=null model.language.model=nobody/nothing",
            "model.language.model: nobody/nothing: not a local folder",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_ends_with_what_to_do(
    written: Path, override: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "nobody" in override:
        content = yaml.safe_load(written.read_text())
        content["model"]["language"] = {"kind": "causal", "model": "nobody/nothing"}
        written.write_text(yaml.safe_dump(content))
        override = "seed=1"
    assert main(["plan", str(written), override]) == 2
    assert says in capsys.readouterr().err


def test_a_plan_reads_like_a_table(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(written), "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "stage instruct (supervised): 6 steps of 8" in said
    assert "not checked: whether it fits" in said


def test_what_does_not_fit_is_told_how_it_would(written: Path, tmp_path: Path) -> None:
    """8 samples of a tiny model fit on every GPU, so the test uses a very small one."""
    loaded = load(written)
    large = parse("h100:4")
    found = plan(loaded, tmp_path, large).stages[0]
    assert found.fits and not found.remedy
    total = found.memory[found.chosen]["total"] * GIB
    small = replace(large, gpu=replace(large.gpu, gib=gpus.RESERVED_GIB + total * 0.8 / gpus.USABLE / GIB))
    told = plan(loaded, tmp_path, small).stages[0]
    assert told.fits is False
    assert told.remedy


@pytest.mark.parametrize("text", ["h2000:8", "h100:0", "h100:8x", "8"])
def test_gpus_that_are_not_known_are_refused(text: str, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(written), "--gpus", text]) == 2
    assert "--gpus" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["t4", "V100", "v100-16", "a10", "a30", "l4", "l40s", "h20", "h800", "mi300x", "rtx5090"]
)
def test_gpus_of_clinics_and_clouds_are_known(name: str) -> None:
    assert parse(f"{name}:2x2").world == 4
    assert parse(name).gpu.bf16 >= parse(name).gpu.fp32 > 0


@pytest.mark.parametrize(
    ("text", "gib", "name"),
    [
        ("", 24, "1 x gpu of 24 GiB"),
        ("a100:8", 64, "8 x a100 of 64 GiB"),
        ("gaudi3:8x2", 128, "16 x gaudi3 of 128 GiB (2 nodes of 8)"),
    ],
)
def test_the_memory_of_any_gpu_can_be_given(text: str, gib: float, name: str) -> None:
    assert str(parse(text, gib)) == name
    assert parse(text, gib).gpu.gib == gib


@pytest.mark.parametrize(("text", "gib"), [("", 0), ("", -8), ("h100", 1.5), ("", float("nan")), ("8", 24)])
def test_a_gpu_without_usable_memory_is_refused(text: str, gib: float) -> None:
    with pytest.raises(RecipeError, match="--gpu"):
        parse(text, gib)


def test_memory_alone_says_whether_it_fits_and_not_how_long_it_takes(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(written), "--runs", str(tmp_path), "--gpu-gib", "24"]) == 0
    told = capsys.readouterr().out
    assert "on 1 x gpu of 24 GiB" in told and "fits: " in told
    assert "how long it takes: the speed of gpu of 24 GiB is not known" in told
    assert "for all steps" not in told


@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("bf16-true", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", mark_slow(kinds("families")))
def test_a_folder_of_every_family_is_planned_whole(family: str, precision: str, tmp_path: Path) -> None:
    stages = [
        {**ADAPTED, "trains": ["connectors", "lora"]},
        {**tiny_run.REASON, "trains": ["encoders", "lora"], "batch": 2},
    ]
    content = tiny_run.recipe(
        model={"pretrained": str(save_tiny(family, tmp_path / "model"))},
        stages=stages,
        engine={"precision": precision, "recompute": ["language"]},
    )
    made = plan(load(tiny_run.written(tmp_path, content)), tmp_path, parse("h200:2"))
    for stage in made.stages:
        assert stage.memory and stage.flops > 0 and not stage.notes, stage.notes


@pytest.mark.parametrize(
    "model",
    [
        "google/medgemma-4b-it",
        pytest.param("Qwen/Qwen2.5-VL-7B-Instruct", marks=pytest.mark.slow),
        pytest.param("llava-hf/llava-1.5-7b-hf", marks=pytest.mark.slow),
    ],
)
def test_a_ready_model_is_planned_with_the_parameters_it_was_published_with(model: str, tmp_path: Path) -> None:
    content = tiny_run.recipe(model={"pretrained": model}, stages=[{**ADAPTED, "batch": 2}])
    made = plan(load(tiny_run.written(tmp_path, content)), tmp_path, None).stages[0]
    published = json.loads(
        next(p for p in known.FOLDER.glob("*.json") if model in json.loads(p.read_text())["ids"]).read_text()
    )["parameters"]
    assert sum(m.trained + m.frozen for m in made.modules if m.name != "lora") == published
    assert made.memory and made.flops > 0 and not made.notes
