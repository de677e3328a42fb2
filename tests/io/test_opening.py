"""Shards over http and s3 give the same samples as on disk, and faults of a server are reported."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.errors import DataError, StorageError
from medvlm.core.sample import Sample
from medvlm.io import opening, places
from medvlm.io.cache import Cache
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter

from . import served
from .served import Server, http

N = 40
PATTERN = "train-{000000..000002}.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, "train", max_bytes=70_000) as writer:
        for i in range(N):
            writer.write(Sample(f"{i:016x}", "made", "train", report=f"report {i}"), {"0.bin": bytes([i]) * (3000 + i)})
    assert len(list(folder.glob("*.tar"))) == 3
    return folder


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(places, "_WAITS", (0.01, 0.01))
    monkeypatch.setattr(places, "BLOCK", 16_384)
    with http(folder) as server:
        yield server


def read_all(shards: ShardSet) -> list[tuple[Sample, dict[str, Any]]]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda i: shards.read("train", i), range(shards.count("train"))))


def count_fetched(server: Server) -> int:
    return sum(
        int(last) + 1 - int(first)
        for path, part in server.asked
        if part and path.endswith(".tar")
        for first, _, last in [part.removeprefix("bytes=").partition("-")]
    )


@pytest.mark.parametrize("cached", [False, True])
def test_shards_over_http_equal_those_on_disk(folder: Path, server: Server, tmp_path: Path, cached: bool) -> None:
    near, far = (
        open_shards(folder),
        open_shards(f"{server.url}/{PATTERN}", Cache(tmp_path, 1 << 30) if cached else None),
    )
    assert far.fingerprint == near.fingerprint and far.count("train") == N
    assert read_all(far) == read_all(near)


def test_a_sample_fetches_its_bytes_and_a_cache_fetches_each_block_once(
    folder: Path, server: Server, tmp_path: Path
) -> None:
    plain = open_shards(f"{server.url}/{PATTERN}")
    server.asked.clear()
    plain.read("train", 3)
    assert 3000 < count_fetched(server) < 6000 and len(server.asked) == 1
    cached = open_shards(f"{server.url}/{PATTERN}", Cache(tmp_path, 1 << 30))
    server.asked.clear()
    read_all(cached)
    whole = sum(tar.stat().st_size for tar in folder.glob("*.tar"))
    assert 0.9 * whole < count_fetched(server) <= whole  # each byte once; the padding at the end of a tar is not read
    server.asked.clear()
    read_all(open_shards(f"{server.url}/{PATTERN}", Cache(tmp_path, 1 << 30)))
    assert server.asked == []  # everything is cached, indexes included


def test_a_cache_smaller_than_an_epoch_gives_the_same_samples(folder: Path, server: Server, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 40_000)
    assert read_all(open_shards(f"{server.url}/{PATTERN}", cache)) == read_all(open_shards(folder))
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= 40_000


def test_damage_in_the_cache_is_fetched_again_and_damage_in_the_shard_is_reported(
    folder: Path, server: Server, tmp_path: Path
) -> None:
    shards = open_shards(f"{server.url}/{PATTERN}", Cache(tmp_path / "cache", 1 << 30))
    read_all(shards)
    for path in (tmp_path / "cache").glob("??/*"):
        path.write_bytes(bytes(path.stat().st_size))  # as after a power cut: the right size, but zeros
    assert read_all(shards) == read_all(open_shards(folder))
    assert read_all(open_shards(f"{server.url}/{PATTERN}", Cache(tmp_path / "cache", 1 << 30))) == read_all(shards)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    data = bytearray((broken / "train-000000.tar").read_bytes())
    data[data.index(bytes([5]) * 3000) + 7] ^= 1
    (broken / "train-000000.tar").write_bytes(data)
    with http(broken) as other:
        shards = open_shards(f"{other.url}/{PATTERN}", Cache(tmp_path / "other", 1 << 30))
        with pytest.raises(DataError, match=r"sample 0+5: 0\.bin has crc32"):
            shards.read("train", 5)
        assert shards.read("train", 6)


def test_a_replaced_tar_is_not_mixed_with_cached_blocks_of_the_old_one(tmp_path: Path, server: Server) -> None:
    cache = Cache(tmp_path / "cache", 1 << 30)
    for report in ("old", "new"):
        with ShardWriter(tmp_path / report, "train") as writer:
            writer.write(Sample("a", "made", "train", report=report), {"0.bin": b"x" * 5000})
        shutil.copytree(tmp_path / report, tmp_path / "served", dirs_exist_ok=True)
        with http(tmp_path / "served") as other:
            port = other.url.rpartition(":")[2]
            shards = open_shards(f"{other.url}/train-000000.tar", cache)
            assert shards.read("train", 0)[0].report == report, port


def test_short_network_failures_are_retried_and_long_ones_are_a_storage_error(
    server: Server,
) -> None:
    shards = open_shards(f"{server.url}/{PATTERN}")
    server.fail = 2
    assert shards.read("train", 0)[0].report == "report 0"
    server.fail = 99
    with pytest.raises(
        StorageError, match=r"train-000000\.tar: cannot be read, tried 3 times .* run the same command again"
    ):
        shards.read("train", 0)


def test_a_server_without_ranges_and_a_missing_tar_are_errors(server: Server) -> None:
    shards = open_shards(f"{server.url}/{PATTERN}")
    server.ranges = False
    with pytest.raises(DataError, match="does not support range requests"):
        shards.read("train", 0)
    with pytest.raises(DataError, match=r"train-000003\.tar: the shard is missing"):
        open_shards(f"{server.url}/train-{{000002..000003}}.tar")


def test_no_password_or_signature_is_ever_shown() -> None:
    assert places.hide_credentials("https://user:pass@host/a.tar?X-Amz-Signature=abc") == "https://host/a.tar"


def test_a_tar_without_index_over_http_is_read_once(folder: Path, server: Server, tmp_path: Path) -> None:
    tar = tmp_path / "bare" / "train-000000.tar"
    tar.parent.mkdir()
    shutil.copy(folder / tar.name, tar)
    cache = Cache(tmp_path / "cache", 1 << 30)
    with http(tar.parent) as bare:
        first = open_shards(f"{bare.url}/{tar.name}", cache)
        assert count_fetched(bare) == tar.stat().st_size
        bare.asked.clear()
        again = open_shards(f"{bare.url}/{tar.name}", cache)
        assert bare.asked == [] and again.fingerprint == first.fingerprint == open_shards(folder / tar.name).fingerprint


@pytest.mark.parametrize(
    "pattern, tars",
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{0..1}/{1..2}.tar", ["0/1.tar", "0/2.tar", "1/1.tar", "1/2.tar"]),
    ],
)
def test_a_pattern_names_its_tars_in_order(pattern: str, tars: list[str], tmp_path: Path) -> None:
    for tar in tars:
        (tmp_path / tar).parent.mkdir(exist_ok=True)
        with ShardWriter(tmp_path / "made", "train") as writer:
            writer.write(Sample(tar.replace("/", "-").partition(".")[0], "made", "train"), {"0.bin": b"x"})
        shutil.move(tmp_path / "made" / "train-000000.tar", tmp_path / tar)
        shutil.rmtree(tmp_path / "made")
    shards = open_shards(str(tmp_path / pattern))
    assert [shards.entry("train", i).key for i in range(len(tars))] == [
        tar.replace("/", "-").partition(".")[0] for tar in tars
    ]


# --- s3 ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with served.s3("shards"):
        yield "s3://shards"


@pytest.mark.slow
def test_a_folder_on_s3_equals_the_folder_on_disk(folder: Path, s3: str, tmp_path: Path) -> None:
    files, _ = places.open_filesystem(s3)
    for path in folder.iterdir():
        files.put_file(str(path), f"shards/made/{path.name}")
    far, near = open_shards(f"{s3}/made", Cache(tmp_path, 1 << 30)), open_shards(folder)
    assert far.fingerprint == near.fingerprint and read_all(far) == read_all(near)
    part = open_shards(f"{s3}/made/train-{{000001..000002}}.tar")
    assert read_all(part) == read_all(near)[-part.count("train") :]
    files.put_file(str(folder / "train-000000.tar"), "shards/half/train-000000.tar.part")
    with pytest.raises(DataError, match=r"are unfinished"):
        open_shards(f"{s3}/half")
    with pytest.raises(DataError, match=r"no shards|missing"):
        open_shards(f"{s3}/nothing")


@pytest.mark.slow
def test_a_foreign_tar_on_s3_is_indexed_without_a_copy(s3: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.json")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    files, _ = places.open_filesystem(s3)
    files.pipe_file("shards/foreign/a.tar", out.getvalue())
    with pytest.raises(DataError, match="not a medvlm sample"):
        open_shards(f"{s3}/foreign")


def test_a_pattern_names_tars_by_number_or_one_by_one(folder: Path) -> None:
    near = read_all(open_shards(folder))
    assert read_all(open_shards(f"{folder}/train-00000{{0,1,2}}.tar")) == near
    assert read_all(open_shards(f"{folder}/{{train-000000,train-000001,train-000002}}.tar")) == near
    for wrong in ("train-{000000}.tar", "train-*.tar", "train-{0..}.tar"):
        with pytest.raises(DataError, match="not a tar pattern"):
            open_shards(folder / wrong)


def test_slow_indexing_reports_progress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    open_shards(folder, say=said.append)
    assert said == []
    monkeypatch.setattr(opening, "SAY_SECONDS", -1.0)
    open_shards(folder, say=said.append)
    assert [line.rpartition(": ")[2] for line in said] == ["1 of 3", "2 of 3", "3 of 3"]
