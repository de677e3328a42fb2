"""The functions of medvlm.api do what the commands do, twice in one process too."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    others = {"push", "check_cases", "fingerprint"}  # `export --to hub:`, `tasks test`, `plan --fingerprint`
    assert {verb.replace("-", "_") for verb in verbs} == functions - others


def test_importing_it_loads_no_torch() -> None:
    code = "import sys; from medvlm import api; assert not {'torch', 'numpy', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_recipe_is_trained_evaluated_and_exported_twice_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "prove", unproven)  # a process of its own, whatever this one has done
    recipe = tiny_run.written(tmp_path, tiny_run.recipe(evaluate={"on": ["films:test"], "samples": 4, "bootstrap": 20}))
    rows = []
    for number in range(2):
        seen = Seen()
        calls: dict[str, Any] = {
            "on_step": seen.steps.append,
            "on_validation": seen.validations.append,
            "on_checkpoint": seen.note,
        }
        more = [f"name=tiny{number}", "stages.pair.validate={every: 3, samples: 6}"]
        run = api.train(recipe, more, runs=tmp_path / "runs", **calls)
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert seen.steps + seen.validations == sorted(logged, key=lambda each: "validation" in each)
        assert len(seen.validations) == 2
        saved = {(stage, f"step-{step}") for stage in tiny_run.STAGES for step in (2, 4, 6)}
        assert set(seen.checkpoints) == saved and len(seen.checkpoints) == len(saved), "each once, and on disk then"
        rows.append([{**row, "measured": None} for row in api.evaluate(run)])  # the recipes have other names
        (receipt,) = api.export(run, tmp_path / f"out{number}", stage="instruct", targets=["custom"])
        assert (receipt.folder / "model.json").is_file()
        assert api.report(run).is_file()
    assert rows[0] and rows[0] == rows[1]
    weights = [(tmp_path / f"out{number}" / "weights.safetensors").read_bytes() for number in range(2)]
    assert weights[0] == weights[1], "what the first run left in the process would change the second"


class Seen:
    """What the functions of a user were called with. Checkpoints as (stage, folder), of those that were on disk."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.validations: list[dict[str, Any]] = []
        self.checkpoints: list[tuple[str, str]] = []

    def note(self, folder: Path) -> None:
        assert (folder / "manifest.json").is_file()
        self.checkpoints.append((folder.parent.name, folder.name))


def test_what_a_hook_raises_ends_the_run(tmp_path: Path) -> None:
    recipe = tiny_run.written(tmp_path, tiny_run.recipe(stages=[{**tiny_run.PAIR, "steps": 2}]))

    def stop(record: dict[str, Any]) -> None:
        raise ZeroDivisionError("from the user")

    with pytest.raises(ZeroDivisionError, match="from the user"):
        api.train(recipe, runs=tmp_path / "runs", on_step=stop)


def test_a_hook_that_is_no_module_of_a_plugin_is_refused(tmp_path: Path) -> None:
    for name, why in (("json", "'json' is not listed"), ("mylab.none", "'mylab' is not listed")):
        recipe = tiny_run.written(tmp_path, {**tiny_run.recipe(), "hooks": [name]})
        with pytest.raises(RecipeError, match=rf"hooks.*{why}"):
            api.validate(recipe)
    recipe = tiny_run.written(tmp_path, {**tiny_run.recipe(), "hooks": ["json.decoder"], "plugins": ["json"]})
    with pytest.raises(RecipeError, match="has none of the functions on_step, on_validation, on_checkpoint"):
        api.validate(recipe)


def test_a_mistake_is_raised(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such recipe"):
        api.train(tmp_path / "absent.yaml")
