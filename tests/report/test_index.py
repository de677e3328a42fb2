"""The page of a folder of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvlm import api
from medvlm.core.errors import RecipeError
from medvlm.report.overlaid import make_overlaid_section
from medvlm.report.reading import read_run
from medvlm.report.run import write_report
from tests.report.conftest import fake_run

Parse = Callable[[Any], Any]


def test_every_run_has_a_row_with_its_state_and_results(tmp_path: Path, parse: Parse) -> None:
    done = fake_run(tmp_path / "done")
    fake_run(tmp_path / "sweep" / "begun", finished=2)
    (tmp_path / "notes").mkdir()
    write_report(done)
    page = api.report(tmp_path)
    assert page == tmp_path / "index.html"
    (body,) = parse(page).all("tbody")
    first, second = body.all("tr")
    assert [a.attributes["href"] for a in body.all("a")] == ["done/report.html"]
    assert first.words().startswith("done phantom evaluated 5 of 5 phantom, cells 1,920")
    assert second.words().startswith("sweep/begun phantom unfinished 2 of 5")
    values = json.loads(first.attributes["data-values"])
    assert values["phantom:test Questions: accuracy"][:2] == [0.931, "0.93 (0.91 to 0.95)"]
    assert json.loads(second.attributes["data-values"]) == {}
    assert str(tmp_path) not in page.read_text()


def test_a_run_gets_its_report_and_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    fake_run(tmp_path / "runs" / "one")
    assert api.report(tmp_path / "runs" / "one").name == "report.html"
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="nor a folder of runs"):
        api.report(tmp_path / "empty")


def test_curves_of_runs_lie_over_each_other(tmp_path: Path, parse: Parse) -> None:
    runs = {name: read_run(fake_run(tmp_path / name, finished)) for name, finished in (("a", 5), ("b", 2))}
    section = make_overlaid_section(runs)
    assert section is not None
    page = parse(section.html)
    assert [h.text for h in page.all("h3")] == ["pair", "read"], "b has logged only these"
    legend = page.all("figure")[0].all("span", "legend")[0].words()
    assert legend.startswith("a ") and " b " in legend
    data = json.loads(page.all("figure")[0].all("script")[0].text)
    assert [line["xs"][-1] for line in data["lines"]] == [400, 400]
    assert make_overlaid_section({"a": runs["a"]}) is None
