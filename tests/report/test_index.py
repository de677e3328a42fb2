"""The page of a folder of runs."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvlm import api
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.report import comparison, index
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


def test_a_link_to_a_run_is_no_further_run(tmp_path: Path, parse: Parse) -> None:
    fake_run(tmp_path / "one")
    (tmp_path / "all").symlink_to(tmp_path)
    (tmp_path / "an alias").symlink_to(tmp_path / "one")
    (body,) = parse(api.report(tmp_path)).all("tbody")
    assert [row.words().split()[0] for row in body.all("tr")] == ["one"]


def test_the_answers_of_many_runs_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        fake_run(tmp_path / str(number))
    read: list[Any] = []

    def watch(run: RunFolder) -> Any:
        record = read_run(run)
        read.append(weakref.ref(record))
        assert sum(each() is not None for each in read) <= 2
        return record

    monkeypatch.setattr(index, "read_run", watch)
    index.report(tmp_path)
    assert len(read) == 6


def test_a_run_with_wrong_values_is_shown_without_them(tmp_path: Path, parse: Parse) -> None:
    """A score that is NaN is none in the list of answers, as JSON has no such number and no browser reads it."""
    run = fake_run(tmp_path / "runs" / "one", finished=5)
    run.recipe.write_text("name: one\nstages: 3\n")
    first, *others = run.answers.read_text().splitlines()
    run.answers.write_text("\n".join([json.dumps({**json.loads(first), "score": math.nan}), *others]))
    split = {"dataset": "phantom", "split": "test", "environment": {"gpus": ["H100"], "packages": {"torch": "2"}}}
    run.results.with_name("protocol.json").write_text(json.dumps([split]))
    page = parse(write_report(run))
    assert "evaluate/protocol.json is damaged and was left out" in page.words()
    (block,) = page.all("div", "answer-list")

    def refuse(number: str) -> None:
        raise AssertionError(number)

    listed = json.loads(block.all("script")[0].text, parse_constant=refuse)
    assert listed["rows"][0][-1] == [None] and listed["rows"][1][-1] != [None]
    assert parse(api.report(tmp_path / "runs")).all("tbody")[0].all("tr")


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


def test_each_seed_has_a_curve_also_if_their_folders_are_called_the_same(tmp_path: Path, parse: Parse) -> None:
    seeds = [fake_run(tmp_path / place / "films").root for place in ("seed-1", "seed-2")]
    other = fake_run(tmp_path / "other").root
    curves = comparison._make_run_sections({"films": seeds, "other": [other]})[0]
    assert curves is not None
    legend = parse(curves.html).all("figure")[0].all("span", "legend")[0].words()
    assert [legend.count(name) for name in ("films, seed-1/films", "films, seed-2/films", "other")] == [1, 1, 1]
