"""Saving in the background: the state at the time of the call is saved, one save at a time, and no error is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.errors import CheckpointError
from medvlm.train import checkpoint, saver
from medvlm.train.checkpoint import Keep
from medvlm.train.saver import Saver, measure_free_memory
from medvlm.train.storage import HashingFile
from medvlm.train.tensors import tensors_of


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before the event."""
    event, write = threading.Event(), HashingFile.write

    def waiting(self: HashingFile, data: Any) -> None:
        assert event.wait(20)
        write(self, data)

    monkeypatch.setattr(HashingFile, "write", waiting)
    return event


def model_and_optimizers() -> tuple[nn.Linear, dict[str, torch.optim.Optimizer]]:
    model, optimizer = model_and_optimizer()
    return model, {"": optimizer}


def model_and_optimizer() -> tuple[nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Linear(5, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 5)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_training_that_goes_on_does_not_reach_into_the_checkpoint(tmp_path: Path, held: threading.Event) -> None:
    model, optimizer = model_and_optimizer()
    with Saver(tmp_path, 0, Keep()) as saver:
        for n in (1, 2):  # the second copy lies where the first one lay
            expected, random = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
            saver.save(n, tensors_of(model, {"": optimizer}), {"step": n})
            step(model, optimizer)
            torch.rand(3)
            assert not (tmp_path / f"step-{n}").exists() and saver.under_way
            held.set()
            saver.wait()
            found = checkpoint.read_weights(tmp_path / f"step-{n}")
            assert all(torch.equal(found[name], t) for name, t in expected.items())
            assert torch.equal(torch.load(tmp_path / f"step-{n}" / "random-0.pt")["cpu"], random)
            held.clear()
        held.set()


def test_in_the_background_and_not_the_bytes_are_the_same(tmp_path: Path) -> None:
    tensors = tensors_of(*model_and_optimizers())
    torch.manual_seed(1)
    for how in ("now", "later"):
        with Saver(tmp_path / how, 0, Keep()) as saver:
            saver.save(3, tensors, {"step": 3}, now=how == "now")
            assert how == "later" or (tmp_path / "now" / "step-3").exists()
    assert checkpoint.digest(tmp_path / "now" / "step-3") == checkpoint.digest(tmp_path / "later" / "step-3")


def test_a_second_save_waits_for_the_first(tmp_path: Path, held: threading.Event) -> None:
    tensors = tensors_of(*model_and_optimizers())
    with Saver(tmp_path, 0, Keep()) as saver:
        saver.save(1, tensors, {"step": 1})
        threading.Timer(0.3, held.set).start()
        began = time.monotonic()
        saver.save(2, tensors, {"step": 2})
        assert time.monotonic() - began > 0.25 and not checkpoint.find_damage(tmp_path / "step-1")
    assert checkpoint.list_saved_steps(tmp_path) == [1, 2]


def failing(self: HashingFile, data: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_failure_is_seen_at_once_and_raised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tensors_of(*model_and_optimizers())
    monkeypatch.setattr(HashingFile, "write", failing)
    with Saver(tmp_path, 0, Keep()) as saver:
        saver.save(1, tensors, {"step": 1})
        until = time.monotonic() + 10
        while not saver.has_failed and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(CheckpointError, match="step-1 was not saved: the disk is full"):
            saver.wait()
        assert not saver.has_failed
        monkeypatch.undo()
        saver.save(2, tensors, {"step": 2})
    assert checkpoint.list_saved_steps(tmp_path) == [2]


def test_a_failure_that_nobody_asked_for_is_raised_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HashingFile, "write", failing)
    with pytest.raises(CheckpointError, match="step-1 was not saved"), Saver(tmp_path, 0, Keep()) as saver:
        saver.save(1, tensors_of(*model_and_optimizers()), {"step": 1})


def test_where_something_else_ends_the_stage_the_save_is_finished_and_its_failure_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, said = tensors_of(*model_and_optimizers()), []
    with pytest.raises(ZeroDivisionError), Saver(tmp_path, 0, Keep()) as saver:
        saver.save(1, tensors, {"step": 1})
        raise ZeroDivisionError
    assert not checkpoint.find_damage(tmp_path / "step-1")
    monkeypatch.setattr(HashingFile, "write", failing)
    with pytest.raises(ZeroDivisionError), Saver(tmp_path, 0, Keep(), say=said.append) as saver:
        saver.save(2, tensors, {"step": 2})
        raise ZeroDivisionError
    assert len(said) == 1 and "step-2 was not saved" in said[0]


def test_without_memory_for_a_copy_training_waits_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "measure_free_memory", lambda: 100)
    said: list[str] = []
    with Saver(tmp_path, 0, Keep(), say=said.append) as slow:
        for n in (1, 2):
            slow.save(n, tensors_of(*model_and_optimizers()), {"step": n})
            assert not slow.under_way and (tmp_path / f"step-{n}").exists()
    assert said == ["training waits for each checkpoint: there is no memory for a copy of 0.0 GB per process"]


def test_a_wait_ticks_as_long_as_bytes_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, ticks = HashingFile.write, []

    def slow(self: HashingFile, data: Any) -> None:
        time.sleep(0.07)
        write(self, data)

    monkeypatch.setattr(HashingFile, "write", slow)
    with Saver(tmp_path, 0, Keep(), tick=lambda: ticks.append(1)) as saver:
        saver.save(1, tensors_of(*model_and_optimizers()), {"step": 1}, now=True)
    assert ticks


def test_memory_left_is_told() -> None:
    left = measure_free_memory()
    assert left is None or 10_000_000 < left < 1 << 50


def test_what_is_kept() -> None:
    steps = [10, 20, 30, 40, 50]
    assert Keep().choose(steps, 50) == {40, 50}
    assert Keep(last=3, every=20).choose(steps, 50) == {20, 30, 40, 50}
    assert Keep(last=1).choose(steps, 50, best=20) == {20, 50}
    assert Keep(last=1).choose(steps, 30) == {30}, "what a run that was set back will write anew does not count"
