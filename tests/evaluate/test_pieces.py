"""A stopped evaluation resumes, and several ranks write the same bytes as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from medvlm.core.ask import Ask
from medvlm.core.errors import DataError
from medvlm.core.protocols import ignore_progress
from medvlm.evaluate.pieces import KeptPieces, open_pieces
from medvlm.io.shards import ShardSet
from tests.evaluate import toy_ranks
from tests.evaluate.toy import Noisy, evaluate_toy, write_shards
from tests.tiny_run import run_ranks

SAMPLES = 40
ASKED = SAMPLES * 6 * 3
"""Six questions a sample: to the model, without the images, and with those of another patient."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="module")
def shards(place: Path) -> ShardSet:
    return write_shards(place, {"train": 20, "test": SAMPLES})


@pytest.fixture(scope="module")
def whole(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    evaluate_toy(Noisy(), shards, folder)
    return read_files(folder)


def read_files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path for path in (folder / "evaluate").rglob("*")}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


class Dying(Noisy):
    """Dies when it is asked for the third time."""

    def __init__(self, identity: str = "toy") -> None:
        super().__init__()
        self.identity, self.calls = {"model": identity}, 0

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        self.calls += 1
        if self.calls == 6:
            raise MemoryError
        return super().answer(asks)


def test_what_was_answered_is_not_asked_again_and_the_files_are_the_same(
    shards: ShardSet, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    first, second = Dying(), Noisy()
    with pytest.raises(MemoryError):
        evaluate_toy(first, shards, tmp_path)
    (kept,) = (tmp_path / "evaluate" / "unfinished").rglob("*.jsonl")
    kept.write_bytes(kept.read_bytes() + b'[9, {"records": [')  # as kill -9 may leave it
    evaluate_toy(second, shards, tmp_path)
    assert read_files(tmp_path) == whole
    again = set(first.asked) & set(second.asked)
    assert len(first.asked) + len(second.asked) == ASKED + len(again)
    assert 0 < len(again) < 2 * 64  # the piece in which it died


def test_answers_of_another_model_are_not_kept(shards: ShardSet, tmp_path: Path, whole: dict[str, bytes]) -> None:
    with pytest.raises(MemoryError):
        evaluate_toy(Dying("another"), shards, tmp_path)
    toy = Noisy()
    evaluate_toy(toy, shards, tmp_path)
    assert len(toy.asked) == ASKED
    assert read_files(tmp_path) == whole


def test_ranks_share_the_questions_and_give_the_files_of_one(
    place: Path, shards: ShardSet, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    run_ranks(Path(toy_ranks.__file__), place, tmp_path)
    assert read_files(tmp_path) == whole
    asked = [(tmp_path / f"asked-{rank}.txt").read_text().splitlines() for rank in range(2)]
    assert len(asked[0]) + len(asked[1]) == ASKED
    assert not set(asked[0]) & set(asked[1])
    assert min(map(len, asked)) > SAMPLES


def test_pieces_of_another_identity_are_removed(tmp_path: Path) -> None:
    open_pieces(tmp_path, "a-test-answers", {"model": 1}).collect("numbers", [1, 1], float, ignore_progress)
    kept = open_pieces(tmp_path, "a-test-answers", {"model": 1})
    assert kept.collect("numbers", [1, 1], lambda number: pytest.fail("again"), ignore_progress) == [0.0, 1.0]
    open_pieces(tmp_path, "a-test-answers", {"model": 2})
    assert not kept.folder.exists()


def test_a_damaged_piece_is_done_again(tmp_path: Path) -> None:
    kept = open_pieces(tmp_path, "a-test-answers", {"model": 1})
    kept.collect("numbers", [1, 1, 1], float, ignore_progress)
    (path,) = kept.folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"[1, 1.0]", b"\0\0\0\0"))
    again: list[int] = []

    def do(number: int) -> float:
        again.append(number)
        return float(number)

    assert kept.collect("numbers", [1, 1, 1], do, ignore_progress) == [0.0, 1.0, 2.0]
    assert again == [1]


def test_a_rank_whose_files_are_elsewhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvlm.evaluate.pieces.find_rank", lambda: (0, 2))
    with pytest.raises(DataError, match=r"2 of 4 pieces .* share"):
        KeptPieces(tmp_path / "own").collect("numbers", [1] * 4, float, ignore_progress)
