"""What the command line answers, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medvlm.cli import EXIT_DONE, EXIT_USER, main
from medvlm.recipe.load import find_shipped

ROOT = Path(__file__).parent.parent
RECIPE = next(path for path in sorted(find_shipped("recipes").rglob("*.yaml")) if path.parent.name != "base")


def test_a_mistake_ends_a_process_with_2_and_one_line_without_a_traceback(tmp_path: Path) -> None:
    wrong = tmp_path / "mine.yaml"
    wrong.write_text(f"extends: [{RECIPE}]\nsede: 3\n")
    done = subprocess.run(
        [sys.executable, "-m", "medvlm", "validate", "mine.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == EXIT_USER == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "medvlm: mine.yaml:2:1 sede: unknown key, did you mean 'seed'? (accepts extends, name, seed,"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [["validate", "none.yaml"], ["validate", str(RECIPE), "seed=x"], ["train", str(RECIPE), "stages.0.stpes=3"]],
)
def test_the_users_mistakes_are_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == EXIT_USER
    assert capsys.readouterr().err.startswith("medvlm: ")


def test_overrides_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(RECIPE), "seed=3", "--runs", "elsewhere", "name=other"]) == EXIT_DONE
    assert "a valid recipe (other, " in capsys.readouterr().out


@pytest.mark.parametrize("what", ["recipe", "card"])
def test_the_schema_is_printed_as_json(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", what]) == EXIT_DONE
    assert json.loads(capsys.readouterr().out)["type"] == "object"


@pytest.mark.parametrize("words", [[], ["trian", "x.yaml"], ["validate"], ["validate", "x.yaml", "--sede=3"]])
def test_what_is_no_command_is_exit_code_2_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == EXIT_USER
