"""Shards go where fsspec reaches, as they would go into a folder."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import pytest

from medvlm.archive.packing import pack as packing
from medvlm.archive.packing.pack import pack
from medvlm.archive.packing.state import PackState
from medvlm.archive.packing.target import UNFINISHED, RemotePackTarget
from medvlm.core.errors import DataError
from medvlm.io.opening import open_shards
from medvlm.io.shards import RECEIPT
from tests.archive.test_pack import archive, card, contents


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packing goes on in the current folder, in shards of a few samples each."""
    monkeypatch.setattr(packing, "SHARD_BYTES", 12 << 10)
    monkeypatch.setattr(packing, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(packing, "num_decoders", lambda: 1)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return archive(tmp_path / "raw", 30)


@pytest.fixture
def memory() -> Any:
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


def remote(files: Any, root: str) -> dict[str, str]:
    return {
        path.rpartition("/")[2]: sha256(files.cat_file(path)).hexdigest()
        for path in sorted(files.ls(root, detail=False))
    }


def test_a_remote_place_gets_the_bytes_of_a_folder(raw, memory, tmp_path):
    receipt = pack(card(), raw, "memory://bucket/films")
    assert receipt == pack(card(), raw, tmp_path / "out")
    assert remote(memory, "/bucket/films") == contents(tmp_path / "out")
    assert [path.name.partition("-")[0] for path in Path().iterdir()] == [".films"], "only the lock stays"


def test_full_shards_leave_at_once_and_the_receipt_is_last(raw, memory, monkeypatch):
    sent: list[tuple[str, int]] = []
    plain = RemotePackTarget._put

    def noted(self, path, name):
        assert memory.exists(f"/bucket/films/{UNFINISHED}")
        sent.append((name, len(list(self.work.glob("*.part")))))
        plain(self, path, name)

    monkeypatch.setattr(RemotePackTarget, "_put", noted)
    pack(card(), raw, "memory://bucket/films")
    names = [name for name, _ in sent]
    assert names[-1] == RECEIPT and len(names) == len(set(names))
    early = [name for name in names[: names.index("card.yaml")] if name.endswith(".tar")]
    assert len(early) >= 4 and max(parts for _, parts in sent) <= 3, "more than one full shard of a split waited here"


def test_what_is_not_complete_does_not_look_so(raw, memory, tmp_path, monkeypatch):
    """Also when its files are copied elsewhere."""
    monkeypatch.setattr(RemotePackTarget, "publish", lambda self: (_ for _ in ()).throw(OSError(5, "gone")))
    with pytest.raises(DataError, match="packing stopped"):
        pack(card(), raw, "memory://bucket/films")
    memory.get("/bucket/films", str(tmp_path / "copy"), recursive=True)
    assert list((tmp_path / "copy").glob("*.tar"))
    with pytest.raises(DataError, match="are unfinished"):
        open_shards(tmp_path / "copy")


@pytest.mark.parametrize("after", [5, 25, 31])
def test_a_broken_connection_is_gone_on_from(raw, memory, tmp_path, monkeypatch, after):
    plain, calls = PackState.commit, [0]

    def breaks(self):
        calls[0] += 1
        if calls[0] == after:
            raise OSError(104, "Connection reset by peer")
        plain(self)

    monkeypatch.setattr(PackState, "commit", breaks)
    with pytest.raises(DataError, match=r"packing stopped \(Connection reset by peer\); pack again"):
        pack(card(), raw, "memory://bucket/films")
    said: list[str] = []
    pack(card(), raw, "memory://bucket/films", progress=said.append)
    assert said[0] == f"packing made: goes on after {after - 1}"
    pack(card(), raw, tmp_path / "out")
    assert remote(memory, "/bucket/films") == contents(tmp_path / "out")


def test_an_upload_that_is_cut_is_noticed(raw, memory, monkeypatch):
    plain = type(memory).put_file
    monkeypatch.setattr(
        type(memory),
        "put_file",
        lambda self, here, there, **kw: (
            plain(self, here, there, **kw) or self.pipe_file(there, self.cat_file(there)[:-1])
        ),
    )
    with pytest.raises(DataError, match=r"packing stopped \(.* has \d+ bytes there and \d+ here\); pack again"):
        pack(card(), raw, "memory://bucket/films")


def test_packing_again_is_done_at_once_and_another_card_is_refused(raw, memory):
    receipt = pack(card(), raw, "memory://bucket/films")
    (raw / "table.csv").unlink()
    assert pack(card(), raw, "memory://bucket/films") == receipt
    with pytest.raises(DataError, match="was packed with another card"):
        pack(card(name="other"), raw, "memory://bucket/films")


def test_a_place_with_other_things_is_left_alone(raw, memory):
    memory.pipe_file("/bucket/films/thesis.txt", b"mine")
    with pytest.raises(DataError, match="holds something"):
        pack(card(), raw, "memory://bucket/films")
    assert memory.ls("/bucket/films", detail=False) == ["/bucket/films/thesis.txt"]


def test_a_file_url_works_like_a_folder(raw, tmp_path):
    pack(card(), raw, f"file://{tmp_path}/remote/films")
    pack(card(), raw, tmp_path / "out")
    assert contents(tmp_path / "remote" / "films") == contents(tmp_path / "out")


def test_a_missing_package_and_an_unknown_protocol_are_said(raw, monkeypatch):
    from fsspec.registry import known_implementations

    monkeypatch.setitem(known_implementations, "s3", {"class": "no_such_s3fs.S3", "err": "Install s3fs to access S3"})
    with pytest.raises(DataError, match=r"s3://bucket/films: cannot be reached .*s3:// needs the package s3fs"):
        pack(card(), raw, "s3://bucket/films")
    with pytest.raises(DataError, match=r"cannot be reached"):
        pack(card(), raw, "carrier-pigeon://bucket/films")
