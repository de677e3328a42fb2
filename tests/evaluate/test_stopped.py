"""A signal ends an evaluation and leaves what was saved before, or everything of a split."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from medvlm.core.ask import Ask
from medvlm.core.run import RunFolder
from medvlm.evaluate import saved
from medvlm.io.shards import ShardSet
from medvlm.train.stopping import SIGNALS, Preempted, raise_on_signal
from tests.evaluate.toy import Noisy, evaluate_toy, write_shards


class Stopped(Noisy):
    """Gets a signal at its second question."""

    def __init__(self, number: signal.Signals):
        super().__init__()
        self.number = number

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        if self.asked:
            os.kill(os.getpid(), self.number)
        return super().answer(asks)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 8, "test": 8})


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "evaluate").glob("*") if path.is_file()}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_questions_leaves_the_results_from_before(
    number: signal.Signals, shards: ShardSet, tmp_path: Path
) -> None:
    evaluate_toy(Noisy(), shards, tmp_path)
    before = read_files(tmp_path)
    with pytest.raises(Preempted, match="stopped here"), raise_on_signal("stopped here"):
        evaluate_toy(Stopped(number), shards, tmp_path)
    assert read_files(tmp_path) == before


def test_a_signal_before_the_first_results_leaves_no_results(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(Preempted), raise_on_signal():
        evaluate_toy(Stopped(signal.SIGTERM), shards, tmp_path)
    assert read_files(tmp_path) == {}


@pytest.mark.parametrize("function", ["_write_lines", "write_json", "rescore"])
def test_a_signal_while_results_are_saved_waits_until_all_are(
    function: str, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = getattr(saved, function)

    def get_signal(*given: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return own(*given)

    monkeypatch.setattr(saved, function, get_signal)
    with pytest.raises(Preempted), raise_on_signal():
        evaluate_toy(Noisy(), shards, tmp_path)
    monkeypatch.undo()
    assert saved.rescore(tmp_path / "evaluate") == json.loads(RunFolder(tmp_path).results.read_text())
    assert not [name for name in read_files(tmp_path) if name.endswith(".part")]
