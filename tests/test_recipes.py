"""Every shipped recipe goes its whole road on real code and, where they are at hand, real images; shortened to two
steps a stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from medvlm.cli import main
from medvlm.recipe.load import find_shipped, load

SMALL = {"phantom": {"films": 90}, "mixed": {"films": 60, "volumes": 60}}
"""Source -> how much of it is generated here."""
ROOTS = {"bccd": "bccd", "vqa_rad": "vqa_rad"}


def shortened(recipe: str, tmp_path: Path, real_data: Path | None) -> list[str]:
    loaded = load(f"{recipe}.yaml")
    overrides = [f"stages.{stage.name}.{key}" for stage in loaded.recipe.stages for key in ("steps=2", "batch=4")]
    overrides += [f"stages.{stage.name}.validate=null" for stage in loaded.recipe.stages]
    overrides += [f"stages.{stage.name}.keep=last" for stage in loaded.recipe.stages]
    # A model that has learnt nothing earns a reward by chance alone, and a stage that never met a difference refuses to
    # end.
    overrides += [
        f"stages.{stage.name}.{key}"
        for stage in loaded.recipe.stages
        if stage.kind == "grpo"
        for key in ("temperature=1", "batch=24")
    ]
    for source, entry in loaded.recipe.data.items():
        if source in SMALL:
            card = yaml.safe_load((find_shipped("data_cards").parent / entry.card).read_text())
            card["reader"].update(SMALL[source])
            card["splits"]["ratios"] = {"train": 0.6, "val": 0.2, "test": 0.2}
            path = tmp_path / f"{source}.yaml"
            path.write_text(yaml.safe_dump(card))
            overrides.append(f"data.{source}.card={path}")
        else:
            overrides.append(f"data.{source}.root={real_data / ROOTS[recipe]}")  # type: ignore[operator]
    return [*overrides, "evaluate.samples=6", "evaluate.bootstrap=50", "engine.workers=0"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["phantom", "phantom_3d", *ROOTS])
def test_a_shipped_recipe_trains_evaluates_exports_and_reports(
    recipe: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    real_data = request.getfixturevalue("real_data") if recipe in ROOTS else None
    overrides = shortened(recipe, tmp_path, real_data)
    runs = tmp_path / "runs"
    assert main(["train", f"{recipe}.yaml", "--runs", str(runs), *overrides]) == 0
    run = runs / recipe
    stages = [s.name for s in load(f"{recipe}.yaml").recipe.stages]
    assert [json.loads((run / s / "stage.json").read_text())["step"] for s in stages] == [2] * len(stages)
    assert main(["evaluate", str(run)]) == 0
    rows = json.loads((run / "evaluate" / "results.json").read_text())
    assert rows and all(
        {"blind", "shuffled", "majority"} <= row["baselines"].keys() for row in rows if row["task"] == "vqa"
    )
    assert main(["export", str(run), "--to", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "README.md").is_file()
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert all(stage in page for stage in stages)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["phantom_spots", "phantom_distill"])
def test_a_recipe_of_a_measurement_validates_and_rehearses(recipe: str, tmp_path: Path) -> None:
    assert main(["validate", f"{recipe}.yaml"]) == 0
    assert main(["dry-run", f"{recipe}.yaml", "--runs", str(tmp_path)]) == 0
