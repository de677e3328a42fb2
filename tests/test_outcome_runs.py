"""Numbers, grades and survival from a table to a report, on squares whose size decides how soon patients die."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm import cli
from medvlm.commands.dry_run import dry_run
from medvlm.core.run import RunFolder
from medvlm.metrics.survival import concordance
from medvlm.preflight.plan import plan
from medvlm.recipe.load import load
from tests.labelled_run import ENCODER, FIT, OUTCOME_DECODERS, OUTCOME_LOSSES, OUTCOMES, recipe, write_run
from tests.tiny_run import trained

MODEL = {"encoders": {"film": ENCODER}, "decoders": OUTCOME_DECODERS}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fit = {**FIT, "losses": OUTCOME_LOSSES, "steps": 250, "batch": 32, "save_every": 0}
    written = recipe(model=MODEL, stages=[fit])
    return write_run(tmp_path_factory.mktemp("outcomes"), written, OUTCOMES, count=400)


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    run = trained(path, path.parent / "runs")
    assert cli.main(["evaluate", str(run.root)]) == 0
    return run


def rows(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {f"{row['task']}/{row['metric']}": row for row in json.loads(run.results.read_text())}


def test_the_order_of_deaths_is_found_about_as_well_as_the_truth_allows(run: RunFolder, path: Path) -> None:
    """The truth is the size of the square alone: a large one is a tenfold hazard."""
    records = [json.loads(line) for line in (run.results.parent / "predictions.jsonl").read_text().splitlines()]
    table = (path.parent / "archive" / "table.csv").read_text().splitlines()[1:]
    large = {(float(row[8]), row[9]): float(row[4]) for row in (line.split(",") for line in table)}
    items = [
        (large[truth["time"], str(int(truth["occurred"]))], truth["time"], truth["occurred"])
        for truth in (record["truth"] for record in records if record["template"] == "death")
    ]
    best = concordance(np.array(items, float), np.ones((1, len(items))))[0]
    for decoder in ("death", "weeks"):  # proportional hazards, hazards in intervals
        found = rows(run)[f"survival/c_index:{decoder}"]
        assert found["baselines"]["majority"] == 0.5 and found["ci"][0] > 0.5
        assert best > 0.6 and found["value"] > best - 0.06, (found, best)


def test_probabilities_are_better_than_the_same_for_everybody(run: RunFolder) -> None:
    found = rows(run)
    for metric in ("auroc_by", "brier_by", "auroc_by:death:8", "auroc_by:weeks:4", "brier_by:weeks:8"):
        assert found[f"survival/{metric}"]["paired"]["verdict"] == "better", found[f"survival/{metric}"]
    assert found["survival/auroc_by:death"]["baselines"]["majority"] == 0.5


def test_numbers_grades_and_uncertain_labels_are_measured(run: RunFolder) -> None:
    found = rows(run)
    assert (
        found["quantity/correlation:row"]["value"] > 0.8 and found["quantity/mae:row"]["paired"]["verdict"] == "better"
    )
    assert found["labels/kappa_quadratic:third"]["value"] > 0.5
    assert found["labels/auroc:look:high"]["n"] < found["labels/auroc:look:large"]["n"]


def test_the_report_and_a_prediction_show_them(run: RunFolder, tmp_path: Path) -> None:
    assert cli.main(["report", str(run.root)]) == 0
    page = run.report.read_text()
    assert "C-index" in page and "Brier score by a time" in page and "mean absolute error" in page
    (shards,) = (path for path in (run.root.parent / "shards").iterdir() if path.is_dir())
    assert cli.main(["predict", str(run.root), "--on", f"{shards}:test", "--to", str(tmp_path / "s.parquet")]) == 0


def test_a_dry_run_and_a_plan_go_through_all_of_it(path: Path, tmp_path: Path) -> None:
    loaded = load(path, ["data.films.root=''"])
    done = {line.what: line.done for line in dry_run(loaded, tmp_path / "dry", lambda line: None)}
    assert "labels, quantity, survival" in done["evaluate"] and "parity proven" in done["export"]
    (stage,) = plan(loaded, tmp_path / "plan", None).stages
    assert stage.flops > 0
