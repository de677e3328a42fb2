"""The outputs in docs/quickstart.md are those of the current code, up to numbers and hashes."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from medvlm.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "quickstart.md"
BODY_PARTS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}


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
    (tmp_path / "images").symlink_to(source / "VQA_RAD Image Folder")
    records = json.loads((source / "VQA_RAD Dataset Public.json").read_text())
    images = {r["image_name"]: (r["image_case_url"][-36:-28], r["image_organ"].strip()) for r in reversed(records)}
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "file", "question", "answer"])
        for name, (case, organ) in sorted(images.items()):
            rows.writerow([case, f"images/{name}", "Which part of the body is this?", BODY_PARTS[organ]])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cases.csv"


def test_init_validate_and_plan_print_what_the_page_shows(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        table.read_text().splitlines()[:3]
        == re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.M | re.S)[0].splitlines()
    )
    for verb in ("init", "validate", "plan"):
        command, output = shown(verb)
        assert main(shlex.split(command)[1:]) == 0
        assert without_numbers(capsys.readouterr().out) == without_numbers(output), f"update {PAGE.name}: {verb}"
