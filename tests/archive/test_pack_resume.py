"""Packing that was killed goes on where it was, and its shards are those of packing that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvlm.archive import pack as packing
from medvlm.archive.ledger import Ledger
from medvlm.archive.pack import pack
from medvlm.core.errors import DataError
from medvlm.io.images import encode_png
from medvlm.io.shards import open_shards
from tests.archive.test_pack import archive, card, contents, noise

SHARD_BYTES = 12 << 10
"""30 films fill several shards of each split."""

KILLED = """
import os, signal, sys
from pathlib import Path
from medvlm.archive import ledger, pack as packing, target
from medvlm.core.card import load_card
from medvlm.io import shards
where, after, card, root, out, workers = sys.argv[1:]
packing.COMMIT_SECONDS, packing.SHARD_BYTES, os.fsync = 0.0, 12 << 10, lambda file: None
holder, name = eval(where.rpartition(".")[0]), where.rpartition(".")[2]
plain, calls = getattr(holder, name), [0]
def dies(*args):
    calls[0] += 1
    if calls[0] == int(after):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*args)
setattr(holder, name, dies)
packing.pack(load_card(Path(card)), Path(root), Path(out), workers=int(workers), max_bad=0.1)
"""

PLACES = [
    ("ledger.Ledger.take", 1), ("ledger.Ledger.take", 20), ("shards.ShardWriter.put", 17), ("shards.ShardWriter._next_tar", 5),
    ("shards.ShardWriter._finish_tar", 3), ("shards.save_index", 4), ("ledger.ShardWriter.sync", 25), ("ledger.Journal.commit", 12),
    ("ledger.Ledger.write_quarantine", 1), ("shards.ShardWriter.close", 2), ("packing._receipt", 1), ("packing.write_durably", 1),
    ("packing.write_durably", 2), ("target.Target.publish", 1), ("target._sync_folder", 2),
]  # fmt: skip
"""Where the packer is killed, and at which call: within samples, at the border of shards, at commits, at every step of publishing."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", SHARD_BYTES)
    monkeypatch.setattr(packing, "num_decoders", lambda: 1)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # a killed process loses nothing that it wrote; only a power cut would


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


def kill_at(where: str, after: int, raw: Path, whole: Path, out: Path) -> None:
    child = subprocess.run([sys.executable, "-c", KILLED, where, str(after), str(whole / "card.yaml"), str(raw), str(out), "2"])
    assert child.returncode == -signal.SIGKILL, "it was not killed"


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("out", ".out.lock"))


def count_takes(monkeypatch) -> list[int]:
    """Grows with every sample that is decoded and decided."""
    plain, calls = Ledger.take, [0]

    def counted(*args):
        calls[0] += 1
        return plain(*args)

    monkeypatch.setattr(Ledger, "take", counted)
    return calls


@pytest.mark.parametrize(("where", "after"), PLACES)
def test_killed_at_any_point_nothing_looks_whole_and_the_next_run_gives_the_same_bytes(tmp_path, raw, whole, where, after):
    out = tmp_path / "out"
    kill_at(where, after, raw, whole, out)
    if out.exists():  # published, and killed before it tidied up
        assert contents(out) == contents(whole)
    elif list((tmp_path / ".out.packing").glob("*.part")):
        with pytest.raises(DataError):
            open_shards(tmp_path / ".out.packing")
    pack(card(), raw, out, max_bad=0.1)
    assert contents(out) == contents(whole) and leftovers(tmp_path) == []


def test_only_what_came_after_the_last_commit_is_decoded_again(tmp_path, raw, whole, monkeypatch):
    kill_at("ledger.Ledger.take", 20, raw, whole, tmp_path / "out")
    calls, said = count_takes(monkeypatch), []
    pack(card(), raw, tmp_path / "out", max_bad=0.1, progress=said.append)
    assert calls == [32 - 19] and said[0] == "packing made: goes on after 19"
    assert contents(tmp_path / "out") == contents(whole)


def test_killed_again_and_again_no_sample_is_lost_or_repeated(tmp_path, raw, whole):
    out = tmp_path / "out"
    for _ in range(4):
        kill_at("ledger.Ledger.take", 7, raw, whole, out)
    pack(card(), raw, out, max_bad=0.1, workers=2)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("damage", ["part cut", "part flipped", "part gone", "index gone", "journal cut", "journal flipped", "journal gone", "stranger"])
def test_what_is_damaged_is_packed_anew(tmp_path, raw, whole, damage):
    kill_at("ledger.Ledger.take", 28, raw, whole, tmp_path / "out")
    work, journal = tmp_path / ".out.packing", tmp_path / ".out.journal"
    (part, *_), (index, *_) = sorted(work.glob("train-*.part"), reverse=True), sorted(work.glob("train-*.json"))
    what, how = damage.split() if " " in damage else ("stranger", "")
    path = {"part": part, "index": index, "journal": journal, "stranger": work / "other-000000.tar"}[what]
    data = path.read_bytes() if path.exists() else b"a tar of something else" * 100
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "flipped": data[:-700] + bytes([data[-700] ^ 1]) + data[-699:], "": data}[how])
    pack(card(), raw, tmp_path / "out", max_bad=0.1)
    assert contents(tmp_path / "out") == contents(whole) and leftovers(tmp_path) == []


def test_another_archive_root_or_card_is_not_gone_on_with(tmp_path, raw, whole, monkeypatch):
    """A row less near the top of the table, in the same place; the same archive in another place; another salt."""
    mine = archive(tmp_path / "mine", 30)
    rows = (mine / "table.csv").read_text().splitlines(keepends=True)
    other = card(splits={"salt": "other", "ratios": {"train": 0.6, "test": 0.4}})
    for name, made, changed in (("rows", card(), [*rows[:3], *rows[4:]]), ("root", card(), rows), ("salt", other, rows)):
        out, straight = tmp_path / name / "out", tmp_path / name / "straight"
        (mine / "table.csv").write_text("".join(rows))
        kill_at("ledger.Ledger.take", 20, raw if name == "root" else mine, whole, out)
        (mine / "table.csv").write_text("".join(changed))
        calls = count_takes(monkeypatch)
        pack(made, mine, out)
        assert calls[0] == len(changed) - 1
        pack(made, mine, straight)
        assert contents(out) == contents(straight)


def test_no_decoder_outlives_a_killed_packer(tmp_path, raw, whole):
    """The lock is free at once, and the decoders are gone soon."""
    script = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print('now', flush=True); import time; time.sleep(60)")
    arguments = ["ledger.Ledger.take", "5", str(whole / "card.yaml"), str(raw), str(tmp_path / "out"), "2"]
    child = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "now\n"
    decoders = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    assert len(decoders) == 2
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
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
    plain, calls = packing.Ledger.commit, [0]

    def full(*args):
        calls[0] += 1
        if calls[0] == 10:
            raise OSError(28, "No space left on device")
        return plain(*args)

    monkeypatch.setattr(packing, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(packing.Ledger, "commit", full)
    with pytest.raises(DataError, match=r"packing stopped \(No space left on device\); pack again, and it goes on"):
        pack(card(), raw, tmp_path / "out", max_bad=0.1)
    monkeypatch.setattr(packing.Ledger, "commit", plain)
    takes = count_takes(monkeypatch)
    pack(card(), raw, tmp_path / "out", max_bad=0.1)
    assert takes == [32 - 9] and contents(tmp_path / "out") == contents(whole)
