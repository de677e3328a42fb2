"""The numbers of all sources add up to those of the stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvlm.train.accounts import account_for_sources, summarize
from tests.tiny_run import INSTRUCT, recipe, trained, written


def test_terms_of_a_source_are_told_beside_what_was_used_of_it() -> None:
    found = account_for_sources({"a": {"loss": 1.5, "tokens": 30.0}}, {"a": (64, 1.23456), "b": (0, 0.0)})
    assert found == {
        "a": {"samples": 64, "epochs": 1.2346, "loss": 1.5, "tokens": 30.0},
        "b": {"samples": 0, "epochs": 0.0},
    }
    assert summarize(found) == "a 1.2 epochs, loss 1.5 | b 0 epochs"
    assert summarize({"a": found["a"]}) == ""


def test_the_sources_of_a_stage_add_up(tmp_path: Path) -> None:
    data = {
        "films": {"card": "card.yaml"},
        "again": {"card": "card.yaml", "order": {"kind": "blocks", "block": 4, "window": 2}},
    }
    stage = {**INSTRUCT, "mix": {"films": 3, "again": 1}, "steps": 3, "save_every": 0}
    run = trained(written(tmp_path, recipe(data=data, stages=[stage])), tmp_path / "runs")
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [(r["sources"]["films"]["samples"], r["sources"]["again"]["samples"]) for r in records] == [
        (6, 2),
        (12, 4),
        (18, 6),
    ]
    for record in records:
        told = record["sources"].values()
        tokens = sum(a["tokens"] for a in told)
        assert sum(a["loss"] * a["tokens"] for a in told) / tokens == pytest.approx(record["loss"], rel=1e-5)
        assert not any("/" in name for name in record["terms"])
