"""Results of subgroups: rows of the samples with a value, beside those of all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.evaluate.run import NOTHING_TOGETHER, evaluate
from medvlm.evaluate.saved import rescore
from medvlm.evaluate.table import format_table
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter
from medvlm.report.results import add_measures, make_headline_section, make_results_section
from tests.evaluate.toy import Noisy, is_noisy, make_sample

COUNT = 40


def group_of(i: int) -> dict[str, str]:
    """Every tenth sample has no sex; each has a day of its own, and all are of one site."""
    return {**({"sex": "f" if i % 3 else "m"} if i % 10 else {}), "day": str(i), "site": "a"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("groups")
    for split in ("train", "test"):
        with ShardWriter(folder, split) as writer:
            for i in range(COUNT):
                sample, files = make_sample(split, i)
                writer.write(replace(sample, groups=group_of(i)), files)
    return open_shards(folder)


def run_on(
    shards: ShardSet, folder: Path, *groups: str, questions: Mapping[str, Sequence[str]] = NOTHING_TOGETHER
) -> tuple[list[Row], list[str]]:
    said: list[str] = []
    rows = evaluate(
        [Noisy()], shards, dataset="toy", split="test", places=[("test", i) for i in range(COUNT)],
        training=lambda: [("train", i) for i in range(COUNT)], out=RunFolder(folder), protocols=["answers"],
        groups=groups, questions=questions, resamples=50, say=said.append,
    )  # fmt: skip
    return rows, said


def test_each_value_has_the_rows_of_its_samples(shards: ShardSet, tmp_path: Path) -> None:
    rows, said = run_on(shards, tmp_path, "sex")
    found = {row["metric"]: row for row in rows if row["task"] == "boxes" and "group" in row}
    assert {row["group"] for row in found.values()} == {"sex=f", "sex=m", "sex=unknown"} and said == []
    for value, row in ((value, found[f"hit_rate:sex={value}"]) for value in ("f", "m", "unknown")):
        own = [i for i in range(COUNT) if group_of(i).get("sex", "unknown") == value]
        right = [not is_noisy(make_sample("test", i)[0].key, "boxes:nodule") for i in own]
        assert row["n"] == len(own) and row["value"] == pytest.approx(sum(right) / len(right), abs=1e-6)
        assert row["ci"] is not None and row["ci"][0] <= row["value"] <= row["ci"][1]
        assert {"blind", "shuffled", "majority"} <= row["baselines"].keys() and row["paired"] is not None


def test_the_rows_of_all_samples_stay_the_same(shards: ShardSet, tmp_path: Path) -> None:
    plain, _ = run_on(shards, tmp_path / "plain")
    rows, _ = run_on(shards, tmp_path / "groups", "sex")
    assert [row for row in rows if "group" not in row] == plain and len(rows) > len(plain)
    assert rescore(tmp_path / "groups/evaluate") == json.loads((tmp_path / "groups/evaluate/results.json").read_text())


def test_what_has_no_rows_is_said(shards: ShardSet, tmp_path: Path) -> None:
    rows, said = run_on(shards, tmp_path, "day", "site", "sxe")
    assert not [row for row in rows if "group" in row]
    assert said == [
        "toy:test: evaluate.groups: 'day' has 40 values, more than 20; no rows",
        "toy:test: evaluate.groups: all samples have the same 'site'; no rows",
        "toy:test: evaluate.groups: no sample has 'sxe' (they have day, sex, site)",
    ]


def test_table_and_page_show_them_apart(shards: ShardSet, tmp_path: Path) -> None:
    rows, _ = run_on(shards, tmp_path, "sex")
    assert "40 rows of classes and subgroups are in results.json" in format_table(rows)
    assert "hit_rate:sex=f" in format_table([row for row in rows if "hit_rate" in row["metric"]])
    results: list[Any] = add_measures([dict(row) for row in rows], [])
    section, headline = make_results_section(results), make_headline_section(results)
    assert section is not None and headline is not None
    page = str(section.html)
    groups = sum("group" in row for row in rows)
    assert f"the same by group of the samples ({groups} rows)" in page and "sex=f" in page
    assert "sex=" not in str(headline.html) and "Results of each question template" in page


def test_questions_of_several_templates_have_rows_together(shards: ShardSet, tmp_path: Path) -> None:
    rows, said = run_on(shards, tmp_path, questions={"seen": ["si*", "place"], "none": ["sex"]})
    found = {row["metric"]: row for row in rows if "group" in row}
    assert {row["group"] for row in found.values()} == {"questions=seen"}
    row, keys = found["accuracy:questions=seen"], [make_sample("test", i)[0].key for i in range(COUNT)]
    right = [not is_noisy(key, template) for key in keys for template in ("side", "place")]
    assert row["n"] == len(right) and row["value"] == pytest.approx(sum(right) / len(right), abs=1e-6)
    assert row["paired"] is not None and row["paired"]["ci"] is not None and "shuffled" in row["baselines"]
    assert said == [
        "toy:test: evaluate.questions: no question has a template of 'none' (there are boxes:nodule, closed:hilum,"
        " count:nodule, place, side)"
    ]
    assert rescore(tmp_path / "evaluate") == json.loads((tmp_path / "evaluate/results.json").read_text())
