"""The outputs in docs/quickstart.md are those of the current code, up to numbers and hashes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from medvlm.cli import main
from tests.part_of_body import write_cases

PAGE = Path(__file__).parent.parent / "docs" / "quickstart.md"


def shown(verb: str) -> tuple[str, str]:
    """The page's command for a verb, and the output that follows it."""
    pattern = rf"^```\n(medvlm {verb} [^\n]*)\n```\n\n```text\n(.*?)^```$"
    (found,) = re.findall(pattern, PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return found


def without_numbers(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{12}\b|[\d,.]*\d", "0", text).strip()


@pytest.fixture
def table(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's table: a question about each image of VQA-RAD, in the current folder."""
    source = real_data / "vqa_rad"
    if not source.is_dir():
        pytest.skip("needs the real data set vqa_rad")
    path = write_cases(source, tmp_path)
    monkeypatch.chdir(tmp_path)
    return path


def test_init_validate_and_plan_print_what_the_page_shows(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        table.read_text().splitlines()[:3]
        == re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.M | re.S)[0].splitlines()
    )
    for verb in ("init", "validate", "plan"):
        command, output = shown(verb)
        assert main(shlex.split(command)[1:]) == 0
        assert without_numbers(capsys.readouterr().out) == without_numbers(output), f"update {PAGE.name}: {verb}"
