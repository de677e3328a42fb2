"""metrics.jsonl survives a process that is killed, and nothing secret leaves the machine."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.track_config import TrackConfig, WandbConfig
from medvlm.train.log import Log, ProgressLine
from medvlm.train.trackers import Picture, Wandb, make_trackers, redact


class Kept:
    def __init__(self) -> None:
        self.written: list[tuple[int | None, dict[str, float]]] = []
        self.others: dict[str, Any] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.written.append((step, dict(metrics)))

    def log_settings(self, name: str, value: Any) -> None:
        self.others[name] = value

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.others[name] = [columns, *rows]

    def log_pictures(self, name: str, pictures: Sequence[Picture]) -> None:
        self.others[name] = pictures

    def save(self) -> None:
        """Kept at once."""


def line(stage: str, step: int, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "step": step, "loss": 1.0 / step, **more}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_every_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = Log(tmp_path / "run" / "metrics.jsonl", True, [])
    for step in (1, 2):
        log.write(line("pair", step))
        assert read(log.path) == [line("pair", s) for s in range(1, step + 1)]


def test_what_a_killed_process_logged_after_its_checkpoint_is_forgotten_and_its_torn_line_too(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl", True, [])
    for stage, steps in (("pair", 3), ("align", 6)):
        for step in range(1, steps + 1):
            log.write(line(stage, step))
    log.write({"stage": "align", "step": 6, "validation": {"loss": 0.5}})
    whole = log.path.read_text()
    log.path.write_text(whole + json.dumps(line("align", 7))[:25])
    log.forget_after("align", 4)
    assert [(r["stage"], r["step"]) for r in read(log.path)] == [
        ("pair", 1),
        ("pair", 2),
        ("pair", 3),
        ("align", 1),
        ("align", 2),
        ("align", 3),
        ("align", 4),
    ]
    log.write(line("align", 5))
    assert read(log.path)[-1] == line("align", 5), "a line after a torn one can be read"


def test_a_stage_that_starts_anew_forgets_all_of_its_own_and_nothing_of_others(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl", True, [])
    log.write(line("pair", 1))
    log.write(line("align", 1))
    log.forget_after("align", 0)
    assert read(log.path) == [line("pair", 1)]
    Log(tmp_path / "absent.jsonl", True, []).forget_after("align", 0)
    assert not (tmp_path / "absent.jsonl").exists()


def test_numbers_that_are_not_finite_are_text_that_every_reader_reads(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl", True, [])
    log.write({"stage": "pair", "step": 1, "loss": math.nan, "terms": {"kl": -math.inf}})
    assert json.loads(log.path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == {
        "stage": "pair",
        "step": 1,
        "loss": "nan",
        "terms": {"kl": "-inf"},
    }


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    kept = Kept()
    Log(tmp_path / "run" / "metrics.jsonl", False, [kept]).write(line("pair", 1))
    assert not (tmp_path / "run").exists() and not kept.written


def test_trackers_get_the_numbers_flat(tmp_path: Path) -> None:
    kept = Kept()
    log = Log(tmp_path / "metrics.jsonl", True, [kept])
    log.write(line("pair", 2, terms={"scale": 10.0}, samples="1f"))
    log.write({"stage": "pair", "step": 2, "validation": {"loss": 0.5}})
    assert kept.written == [
        (2, {"pair/step": 2, "pair/loss": 0.5, "pair/scale": 10.0}),
        (2, {"pair/step": 2, "pair/validation/loss": 0.5}),
    ]


def test_nothing_is_imported_that_the_recipe_does_not_name(tmp_path: Path) -> None:
    code = "import sys; from medvlm.core.track_config import *; from medvlm.train.trackers import *; "
    code += "assert make_trackers(TrackConfig(), {}, 'n', None) == []; "
    code += "assert not {'wandb', 'tensorboard', 'lightning'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensorboard_keeps_all_attempts_of_a_run_in_one_folder(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ((1, 2), (3,)):
        trackers = make_trackers(TrackConfig(tensorboard=True), {}, "tiny", tmp_path)
        log = Log(tmp_path / "metrics.jsonl", True, trackers)
        for step in steps:
            log.write(line("pair", step, sources={"films": {"samples": 4}}))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("pair/loss")] == [(n, pytest.approx(1 / n)) for n in (1, 2, 3)]
    assert found.Tags()["scalars"] == ["pair/step", "pair/loss", "pair/source/films/samples"]


@pytest.mark.slow
def test_wandb_offline_keeps_each_attempt_in_one_group_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    track = TrackConfig(wandb=WandbConfig(project="films"))
    recipe = {"seed": 7, "data": {"root": "/srv/patients"}, "hub": {"token": "hf_0123456789"}}
    groups = []
    for step in (1, 2):
        (tracker,) = make_trackers(track, recipe, "tiny", tmp_path)
        Log(tmp_path / "metrics.jsonl", True, [tracker]).write(line("pair", step))
        assert isinstance(tracker, Wandb) and tracker.run.settings.mode == "offline"
        groups.append((tracker.run.id, tracker.run.group, dict(tracker.run.summary)["pair/loss"]))
        assert tracker.run.config.as_dict() == {"seed": 7, "data": {"root": "[path]"}, "hub": {"token": "[redacted]"}}
        tracker.run.finish()
    assert "WANDB_MODE" not in os.environ
    (first, group, loss), (second, other, later) = groups
    assert first != second and group == other and (loss, later) == (1.0, 0.5)
    stored = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(stored) == 2
    late = time.monotonic() + 60
    while not all(b"pair/loss" in path.read_bytes() for path in stored):  # its service writes on after finish()
        assert time.monotonic() < late, "wandb stored no metrics"
        time.sleep(0.1)
    for path in (path for path in (tmp_path / "wandb").rglob("*") if path.is_file()):
        assert b"hf_0123456789" not in path.read_bytes() and b"/srv/patients" not in path.read_bytes()


def test_secrets_and_places_are_taken_out_of_what_leaves_the_machine() -> None:
    recipe = {
        "name": "chest",
        "seed": 7,
        "track": {"wandb": {"project": "x", "api_key": "abc"}},
        "token": "t",
        "db_password": "p",
        "AWS-Secret": "s",
        "data": {"films": {"card": "cards/films.yaml", "root": "/srv/patients", "shards": "~/shards"}},
        "notes": ["hf_abcdefgh", "sk-abc", "0" * 40, "a plain word"],
        "max_new_tokens": 64,
        "tokens": 5,
    }
    assert redact(recipe) == {
        "name": "chest",
        "seed": 7,
        "track": {"wandb": {"project": "x", "api_key": "[redacted]"}},
        "token": "[redacted]",
        "db_password": "[redacted]",
        "AWS-Secret": "[redacted]",
        "data": {"films": {"card": "cards/films.yaml", "root": "[path]", "shards": "[path]"}},
        "notes": ["[redacted]", "[redacted]", "[redacted]", "a plain word"],
        "max_new_tokens": 64,
        "tokens": 5,
    }


def test_progress_says_where_the_stage_stands_and_how_long_it_will_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = ProgressLine("pair", 2, 5, steps=400, start=100, enabled=True)
    now[0] += 20
    progress.show(110, 1.5, 1234.5)
    assert capsys.readouterr().out == "", "a log file gets a line now and then, not every step"
    progress.note_validation(1.25, is_best=True)
    now[0] += 40
    progress.show(160, 1.5, 1234.5)
    # 60 steps of this process took 60 s, 240 are left: 4 minutes.
    assert capsys.readouterr().out == (
        "stage 2/5 pair  step 160/400  loss 1.5000  validation 1.2500 (best)  1,234 samples/s  ETA 4:00\n"
    )
    progress.show(400, 1.5, 1234.5, last=True)
    assert "step 400/400" in capsys.readouterr().out, "the last step is always shown"
