"""Packing that was killed goes on where it was, and its shards are those of packing that was not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvlm.archive.packing import pack as packing
from medvlm.archive.packing import target
from medvlm.archive.packing.journal import Journal
from medvlm.archive.packing.pack import pack
from medvlm.archive.packing.state import PackState
from medvlm.archive.packing.target import PackTarget
from medvlm.core.card import Card
from medvlm.core.errors import DataError
from medvlm.io import shards
from medvlm.io.images import encode_png
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from tests.archive.test_folder import CONFIG as MASKED
from tests.archive.test_folder import archive as archive_of_masks
from tests.archive.test_folder import drawn
from tests.archive.test_pack import archive, card, contents, noise

SHARD_BYTES = 12 << 10
"""30 films fill several shards of each split."""

PLACES = [
    (PackState, "take", 1),
    (PackState, "take", 20),
    (ShardWriter, "put", 17),
    (ShardWriter, "_next_tar", 5),
    (ShardWriter, "_finish_tar", 3),
    (shards, "save_index", 4),
    (ShardWriter, "sync", 25),
    (Journal, "commit", 12),
    (PackState, "write_quarantine", 1),
    (ShardWriter, "close", 2),
    (packing, "_receipt", 1),
    (packing, "write_durably", 1),
    (packing, "write_durably", 2),
    (PackTarget, "publish", 1),
    (target, "sync_folder", 2),
]
"""Where the packer is killed, and at which call: within samples, at the border of shards, at commits, at every step of
publishing."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", SHARD_BYTES)
    monkeypatch.setattr(packing, "num_decoders", lambda: 1)
    monkeypatch.setattr(
        os, "fsync", lambda file: None
    )  # a killed process loses nothing that it wrote; only a power cut would


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """32 films, two of them bad."""
    return archive(tmp_path_factory.mktemp("raw"), 30, bad=b"hello", cut=encode_png(noise(3))[:-30])


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD_BYTES", SHARD_BYTES)
        pack(card(), raw, out, max_bad=0.1, workers=1)
    assert len(list(out.glob("*.tar"))) >= 6
    return out


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(
    holder: Any, name: str, after: int, raw: Path, out: Path, how: Callable[[], None] = killed, of: Card | None = None
) -> int:
    """Packs in another process that is killed when it calls holder.name for the after-th time; its id, where `how` does
    not kill it."""
    pid = os.fork()
    if pid == 0:
        plain, calls = getattr(holder, name), [0]

        def dies(*args):
            calls[0] += 1
            if calls[0] == after:
                how()
            return plain(*args)

        setattr(holder, name, dies)
        packing.COMMIT_SECONDS = 0.0
        try:
            pack(of or card(), raw, out, max_bad=0.1)
        finally:
            os._exit(1)
    if how is killed:
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, "it was not killed"
    return pid


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("out", ".out.lock"))


def count_takes(monkeypatch) -> list[int]:
    """Grows with every sample that is decoded and decided."""
    plain, calls = PackState.take, [0]

    def counted(*args):
        calls[0] += 1
        return plain(*args)

    monkeypatch.setattr(PackState, "take", counted)
    return calls


@pytest.mark.parametrize(("holder", "name", "after"), PLACES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_killed_at_any_point_nothing_looks_whole_and_the_next_run_gives_the_same_bytes(
    tmp_path, raw, whole, holder, name, after
):
    out = tmp_path / "out"
    kill_at(holder, name, after, raw, out)
    if out.exists():  # published, and killed before it tidied up
        assert contents(out) == contents(whole)
    elif list((tmp_path / ".out.packing").glob("*.part")):
        with pytest.raises(DataError):
            open_shards(tmp_path / ".out.packing")
    pack(card(), raw, out, max_bad=0.1)
    assert contents(out) == contents(whole) and leftovers(tmp_path) == []


def test_only_what_came_after_the_last_commit_is_decoded_again(tmp_path, raw, whole, monkeypatch):
    kill_at(PackState, "take", 20, raw, tmp_path / "out")
    calls, said = count_takes(monkeypatch), []
    pack(card(), raw, tmp_path / "out", max_bad=0.1, progress=said.append)
    assert calls == [32 - 19] and said[0] == "packing made: goes on after 19"
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.slow
def test_killed_again_and_again_no_sample_is_lost_or_repeated(tmp_path, raw, whole):
    out = tmp_path / "out"
    for _ in range(4):
        kill_at(PackState, "take", 7, raw, out)
    pack(card(), raw, out, max_bad=0.1, workers=2)
    assert contents(out) == contents(whole)


def test_what_is_left_out_of_samples_is_counted_once(tmp_path):
    for i in range(12):
        archive_of_masks(tmp_path, f"{i}L", a=drawn((0, 0, 1, 1)), b=drawn((5, 5, 9 + i, 9)))
    reader = {**MASKED, "masks": [{**MASKED["masks"][0], "min_px": 4}], "medium": "film"}
    cells = Card.model_validate(
        {**card().model_dump(mode="json", by_alias=True), "splits": {"by": "image"}, "reader": reader}
    )
    kill_at(PackState, "take", 8, tmp_path, tmp_path / "out", of=cells)
    assert pack(cells, tmp_path, tmp_path / "out").left_out == {"object of less than min_px pixels": 12}


@pytest.mark.parametrize(
    "damage",
    [
        "part cut",
        "part flipped",
        "part gone",
        "full cut",
        "full gone",
        "index gone",
        "journal cut",
        "journal flipped",
        "journal gone",
        "stranger",
    ],
)
def test_what_is_damaged_is_packed_anew(tmp_path, raw, whole, damage):
    kill_at(PackState, "take", 28, raw, tmp_path / "out")
    work, journal = tmp_path / ".out.packing", tmp_path / ".out.journal"
    (full, *_, part), (index, *_) = sorted(work.glob("train-*.part")), sorted(work.glob("train-*.json"))
    what, how = damage.split() if " " in damage else ("stranger", "")
    path = {"part": part, "full": full, "index": index, "journal": journal, "stranger": work / "other-000000.tar"}[what]
    data = path.read_bytes() if path.exists() else b"a tar of something else" * 100
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": data[: len(data) // 2], "flipped": data[:-700] + bytes([data[-700] ^ 1]) + data[-699:], "": data}[
                how
            ]
        )
    pack(card(), raw, tmp_path / "out", max_bad=0.1)
    assert contents(tmp_path / "out") == contents(whole) and leftovers(tmp_path) == []


@pytest.mark.slow
def test_another_archive_root_or_card_is_not_gone_on_with(tmp_path, raw, whole, monkeypatch):
    """A row less near the top of the table, in the same place; the same archive in another place; another salt."""
    mine = archive(tmp_path / "mine", 30)
    rows = (mine / "table.csv").read_text().splitlines(keepends=True)
    other = card(splits={"salt": "other", "ratios": {"train": 0.6, "test": 0.4}})
    for name, made, changed in (
        ("rows", card(), [*rows[:3], *rows[4:]]),
        ("root", card(), rows),
        ("salt", other, rows),
    ):
        out, straight = tmp_path / name / "out", tmp_path / name / "straight"
        (mine / "table.csv").write_text("".join(rows))
        kill_at(PackState, "take", 20, raw if name == "root" else mine, out)
        (mine / "table.csv").write_text("".join(changed))
        calls = count_takes(monkeypatch)
        pack(made, mine, out)
        assert calls[0] == len(changed) - 1
        pack(made, mine, straight)
        assert contents(out) == contents(straight)


@pytest.mark.slow
def test_no_decoder_outlives_a_killed_packer(tmp_path, raw, whole):
    """The lock is free at once, and the decoders are gone soon."""
    waits, says = os.pipe()

    def stop() -> None:
        os.write(says, b"now")
        time.sleep(60)

    pid = kill_at(PackState, "take", 5, raw, tmp_path / "out", how=stop)
    assert os.read(waits, 3) == b"now"
    decoders = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(decoders) == 1
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in decoders) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_running(pid) for pid in decoders)
    pack(card(), raw, tmp_path / "out", max_bad=0.1)
    assert contents(tmp_path / "out") == contents(whole)


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_full_disk_is_said_and_the_next_run_goes_on(tmp_path, raw, whole, monkeypatch):
    plain, calls = packing.PackState.commit, [0]

    def full(*args):
        calls[0] += 1
        if calls[0] == 10:
            raise OSError(28, "No space left on device")
        return plain(*args)

    monkeypatch.setattr(packing, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(packing.PackState, "commit", full)
    with pytest.raises(DataError, match=r"packing stopped \(No space left on device\); pack again, and it goes on"):
        pack(card(), raw, tmp_path / "out", max_bad=0.1)
    monkeypatch.setattr(packing.PackState, "commit", plain)
    takes = count_takes(monkeypatch)
    pack(card(), raw, tmp_path / "out", max_bad=0.1)
    assert takes == [32 - 9] and contents(tmp_path / "out") == contents(whole)
