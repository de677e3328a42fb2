"""The notebook runs and prints what it shows, and the page beside it names every function."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

from medvlm import api
from tests.notebook import run_cells

DOCS = Path(__file__).parent.parent / "docs"
CELLS = json.loads((DOCS / "python.ipynb").read_text())["cells"]
HASH = re.compile(r"\b[0-9a-f]{12}\b|(?<=and )\d+(?= more)")
TRAINING = "api.train(\n"
"""The cell whose output has speeds and rounded losses."""


def test_the_page_names_every_function() -> None:
    page = (DOCS / "python.md").read_text()
    functions = {name for name, _ in inspect.getmembers(api, inspect.isfunction)}
    assert {name for name in functions if f"`{name}(" not in page and f"`{name}`" not in page} == set()


@pytest.mark.slow
def test_the_notebook_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, text in run_cells(CELLS):
        shown = "".join(line for output in CELLS[number]["outputs"] for line in output["text"])
        if TRAINING not in "".join(CELLS[number]["source"]):
            assert HASH.sub("", text) == HASH.sub("", shown)
        assert len(text.splitlines()) > 0 or not shown
