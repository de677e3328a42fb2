"""What is loaded when: the command line answers at once, and checking a recipe needs torch at most."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "numpy", "transformers", "timm", "monai", "lightning", "peft", "webdataset", "pydantic")
BEYOND_TORCH = (
    "transformers",
    "timm",
    "monai",
    "lightning",
    "peft",
    "webdataset",
    "deepspeed",
    "pydicom",
    "nibabel",
    "matplotlib",
    "wandb",
    "scipy",
    "sympy",
    "torch.distributed.tensor",
)


def loaded_by(code: str, watched: tuple[str, ...]) -> tuple[list[str], float]:
    """Which of `watched` a fresh process has loaded after `code`, and its seconds from start to end."""
    program = f"{code}\nimport sys\nprint('LOADED', *[m for m in {watched!r} if m in sys.modules])"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("LOADED")[2].split(), seconds


HELP = """
import medvlm.cli
try:
    medvlm.cli.main(["--help"])
except SystemExit as stop:
    assert not stop.code, stop.code
"""


@pytest.mark.parametrize("code", ["import medvlm", HELP], ids=["import medvlm", "medvlm --help"])
def test_the_command_line_starts_light(code: str, record_property: Callable[[str, object], None]) -> None:
    runs = [loaded_by(code, HEAVY) for _ in range(5)]
    assert [loaded for loaded, _ in runs] == [[]] * 5
    seconds = statistics.median(s for _, s in runs)
    record_property("seconds", seconds)
    print(f"median of 5: {seconds:.2f} s")


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_checking_a_recipe_loads_torch_at_most(share: int) -> None:
    """The others cost 3 s each. A base recipe is no whole one, but what it lacks is found by the same road. One process
    checks all recipes and ends at the first that loads more."""
    paths = sorted(map(str, (ROOT / "recipes").rglob("*.yaml")))[::share]
    code = f"""
import sys
from medvlm.core.errors import RecipeError
from medvlm.recipe.load import validate
for path in {paths!r}:
    try:
        validate(path)
    except RecipeError as error:
        assert 'base' in path, error
    loaded = sorted(set(sys.modules) & set({BEYOND_TORCH!r}))
    assert not loaded, f'{{path}} loads {{loaded}}'
"""
    assert len(paths) > 20 and loaded_by(code, BEYOND_TORCH)[0] == []


def test_short_answers_and_counts_are_scored_without_torch_numpy_and_scipy() -> None:
    """Rewards may be tried, and saved answers looked at, in a process that starts at once."""
    code = """
from medvlm.core.sample import make_truth
from medvlm.rewards._compose import Composer
composer = Composer({'choice': 1, 'boxes': 1, 'count': 1, 'format': 1})
composer.score('3', make_truth('count', count=3))
composer.score('left', make_truth('choice', 'left', choices=('left', 'right')))
composer.score('[0, 0, 9, 9]', make_truth('boxes', boxes=((0, 0, 10, 10),)))
"""
    assert loaded_by(code, ("torch", "numpy", "scipy"))[0] == []
