"""Libraries are silent where a user cannot act on what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SAYS = """
import warnings
from medvlm.core.quiet import silence_libraries
silence_libraries()
warnings.warn_explicit("it said so", {kind}, "{module}.py", 1, module="{module}")
"""


def run(code: str, *options: str, **env: str) -> str:
    command = [sys.executable, *options, "-c", code]
    known = {key: value for key, value in os.environ.items() if key not in ("PYTHONWARNINGS", "TRANSFORMERS_VERBOSITY")}
    done = subprocess.run(
        command, capture_output=True, text=True, env={**known, "PYTHONPATH": str(ROOT), **env}, check=True
    )
    return done.stderr


@pytest.mark.parametrize("module", ["torch.nn.modules", "transformers", "timm.models", "lightning.fabric.strategies"])
@pytest.mark.parametrize("kind", ["UserWarning", "FutureWarning"])
def test_warnings_of_libraries_are_silent(module: str, kind: str) -> None:
    assert run(SAYS.format(kind=kind, module=module)) == ""


@pytest.mark.parametrize("module", ["medvlm.io.shards", "torch.cuda", "torchless", "mylab.reader"])
def test_warnings_that_a_user_can_act_on_stay(module: str) -> None:
    assert "it said so" in run(SAYS.format(kind="UserWarning", module=module))


def test_what_the_user_asks_to_hear_stays() -> None:
    said = SAYS.format(kind="UserWarning", module="torch.nn")
    assert "it said so" in run(said, "-W", "default")
    assert "it said so" in run(said, PYTHONWARNINGS="default")


def test_the_level_that_the_user_sets_stays() -> None:
    level = "import os, sys; sys.stderr.write(os.environ['TRANSFORMERS_VERBOSITY'])"
    quiet = "from medvlm.core.quiet import silence_libraries; silence_libraries(); "
    assert run(quiet + level) == "error"
    assert run(quiet + level, TRANSFORMERS_VERBOSITY="info") == "info"
