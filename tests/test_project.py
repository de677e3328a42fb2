"""What an open project has beside its code: one version, workflows that call our scripts, completion of shells."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm import __version__, api

ROOT = Path(__file__).parent.parent


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_version_is_the_same_everywhere() -> None:
    assert read("CITATION.cff")["version"] == __version__
    assert re.findall(r"^## (\d[\d.]*)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == __version__


@pytest.mark.parametrize(("workflow", "script"), [("ci", ".ci/run"), ("release", ".ci/build")])
def test_a_workflow_calls_our_script(workflow: str, script: str) -> None:
    jobs = read(f".github/workflows/{workflow}.yml")["jobs"]
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    assert any(step.split(" ")[0] == script for step in steps) and (ROOT / script).stat().st_mode & 0o100


def test_the_notes_for_agents_name_files_that_are_there() -> None:
    text = (ROOT / "AGENTS.md").read_text()
    examples = [ROOT / "tests/plugins/mylab" / name for name in re.findall(r"`((?:families/)?\w+\.py)`", text)]
    tests = [ROOT / name for line in re.findall(r"pytest ([^`\n]*)", text) for name in line.split()]
    folders = [ROOT / name for name in re.findall(r"`(medvlm/[\w/]+/)`", text)]
    assert examples and tests and folders
    assert [str(path) for path in (*examples, *tests, *folders) if not path.exists()] == []


def test_a_shell_completes_commands_and_options(tmp_path: Path) -> None:
    (tmp_path / "medvlm").write_text(api.completion("bash"))
    ask = "COMP_WORDS=(medvlm {0}); COMP_CWORD={1}; _shtab_medvlm; echo ${{COMPREPLY[@]}}"
    asked = "; ".join(ask.format(*each) for each in (("ini", 1), ("init --da", 2)))
    done = subprocess.run(["bash", "-c", f"source {tmp_path / 'medvlm'}; {asked}"], capture_output=True, text=True)
    assert done.stdout.split() == ["init", "--data"], done.stderr
