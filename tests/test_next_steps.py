"""How `medvlm train` ends, and that it ends without anybody who reads what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medvlm.cli import main
from medvlm.commands.next_steps import describe_end
from medvlm.core.run import RunFolder, write_json
from medvlm.recipe.load import load
from tests import tiny_run
from tests.core.test_output import run_without_reader

CHECKED = {**tiny_run.PAIR, "steps": 4, "validate": {"every": 2, "samples": 6}, "keep": "best"}


def test_training_ends_by_saying_where_things_are_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tiny_run.written(tmp_path, tiny_run.recipe(stages=[CHECKED], evaluate={"on": ["films:test"]}))
    assert main(["train", str(written), "--runs", str(tmp_path / "my runs")]) == 0
    run = tmp_path / "my runs" / "tiny"
    told = capsys.readouterr().out
    end = told[told.index("\nrun  ") :].splitlines()[1:]
    assert end[0] == f"run       {run}"
    kept = end[1].partition(", ")[0].removeprefix("stage     pair: ")
    assert Path(kept).is_dir() and Path(kept).parent == run / "pair"
    assert ", validation " in end[1]
    assert end[2:] == [
        f"next      medvlm evaluate '{run}'",
        f"          medvlm report '{run}'",
        f"          medvlm export '{run}' --to DIR",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("reads", [40])
def test_training_ends_well_without_its_reader_and_libraries_are_silent(tmp_path: Path, reads: int) -> None:
    changes = {"evaluate": {"on": ["films:test"]}, "engine": {"precision": "bf16-mixed"}}
    written = tiny_run.written(tmp_path, tiny_run.recipe(stages=[CHECKED], **changes))
    command = [sys.executable, "-m", "medvlm", "train", str(written), "--runs", str(tmp_path / "runs")]
    status, said = run_without_reader(command, tmp_path, reads)
    noise = [line for line in said.splitlines() if "real_accelerator" not in line]  # DeepSpeed has no GPU
    assert (status, noise) == (0, [])
    assert (tmp_path / "runs" / "tiny" / "pair" / "stage.json").is_file()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose first stage is finished, and validated three times."""
    run = RunFolder(tmp_path / "runs" / "tiny")
    write_json(run.stage("pair") / "stage.json", {"take": "step-4"})
    losses = ((2, "0.5"), (4, "0.75"), (6, '"nan"'))
    lines = [f'{{"stage": "pair", "step": {step}, "validation": {{"loss": {loss}}}}}\n' for step, loss in losses]
    run.metrics.write_text("".join([*lines, '{"stage": "pair", "step": 6, "loss": 1}\n']))
    return run


def test_the_best_validation_is_named_where_another_checkpoint_was_kept(run: RunFolder, tmp_path: Path) -> None:
    loaded = load(tiny_run.written(tmp_path, tiny_run.recipe(stages=[tiny_run.PAIR], evaluate={"on": ["films:test"]})))
    assert (
        f"pair: {run.stage('pair') / 'step-4'}, validation 0.7500, best 0.5000 at step 2"
        in describe_end(loaded, run)[1]
    )


def test_stages_that_are_left_and_samples_that_were_skipped_are_named(run: RunFolder, tmp_path: Path) -> None:
    loaded = load(tiny_run.written(tmp_path, tiny_run.recipe()))
    run.quarantine.touch()
    told = describe_end(loaded, run)
    assert told[-1] == "next      instruct, reason: not trained yet; run medvlm train without --stage"
    assert told[-2] == f"skipped   samples that could not be read: {run.quarantine}"


def test_a_recipe_that_evaluates_on_nothing_gets_a_command_that_does(run: RunFolder, tmp_path: Path) -> None:
    plain = {key: value for key, value in tiny_run.recipe(stages=[tiny_run.PAIR]).items() if key != "evaluate"}
    loaded = load(tiny_run.written(tmp_path, plain))
    assert any(line.endswith("tiny --on SOURCE:test") for line in describe_end(loaded, run))
