"""The functions of medvlm.api do what the commands do, twice in one process too."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from medvlm import api
from medvlm.commands.arguments import make_parser
from medvlm.core.errors import RecipeError
from medvlm.export.proof import parity
from tests import tiny_run
from tests.export.conftest import unproven


def test_every_command_has_a_function() -> None:
    top = make_parser()._subparsers
    assert top is not None
    verbs = dict(top._group_actions[0].choices)  # type: ignore[arg-type]
    inner = verbs.pop("data")._subparsers
    assert inner is not None
    verbs |= dict(inner._group_actions[0].choices)  # type: ignore[arg-type]
    functions = {name for name, _ in inspect.getmembers(api, inspect.isfunction)}
    others = {"push", "check_cases"}  # `export --to hub:`, and `tasks test`
    assert {verb.replace("-", "_") for verb in verbs} == functions - others


def test_importing_it_loads_no_torch() -> None:
    code = "import sys; from medvlm import api; assert not {'torch', 'numpy', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recipe_is_trained_evaluated_and_exported_twice_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "prove", unproven)  # a process of its own, whatever this one has done
    recipe = tiny_run.written(tmp_path, tiny_run.recipe(evaluate={"on": ["films:test"], "samples": 4, "bootstrap": 20}))
    rows = []
    for number in range(2):
        run = api.train(recipe, [f"name=tiny{number}"], runs=tmp_path / "runs")
        rows.append([{**row, "measured": None} for row in api.evaluate(run)])  # the recipes have other names
        (receipt,) = api.export(run, tmp_path / f"out{number}", stage="instruct", targets=["custom"])
        assert (receipt.folder / "model.json").is_file()
        assert api.report(run).is_file()
    assert rows[0] and rows[0] == rows[1]
    weights = [(tmp_path / f"out{number}" / "weights.safetensors").read_bytes() for number in range(2)]
    assert weights[0] == weights[1], "what the first run left in the process would change the second"


def test_a_mistake_is_raised(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such recipe"):
        api.train(tmp_path / "absent.yaml")
