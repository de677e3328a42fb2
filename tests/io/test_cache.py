"""The cache with many threads and killed processes; its bound is compared with the actual size of its folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from medvlm.core.errors import StorageError
from medvlm.io.cache import Cache


def entry(n: int, size: int = 1000) -> bytes:
    return bytes([n % 251]) * size


def bytes_held_by(cache: Cache) -> int:
    total = 0
    for path in cache.folder.glob("??/*"):
        with suppress(FileNotFoundError):  # evicted meanwhile
            total += path.stat().st_size
    return total


def test_a_cached_entry_is_not_made_again(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path, 10_000), []

    def make() -> bytes:
        made.append(1)
        return entry(7)

    assert [cache.read("a", 1000, start, start + 5, make) for start in (0, 995)] == [entry(7)[:5]] * 2
    assert cache.read_all("a", make) == entry(7) and len(made) == 1
    cache.drop("a")
    assert cache.read("a", 1000, 0, 1000, make) == entry(7) and len(made) == 2


def test_the_least_recently_used_entry_is_evicted_and_the_bound_holds(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10_000)
    for n in range(10):
        cache.read(str(n), 1000, 0, 1, partial(entry, n))
        time.sleep(0.01)
    assert bytes_held_by(cache) == 10_000
    for n in (0, 3):  # used again
        cache.read(str(n), 1000, 0, 1, lambda: pytest.fail("made again"))
    cache.read("new", 1000, 0, 1, lambda: entry(99))
    assert bytes_held_by(cache) <= 10_000
    there = {n for n in range(10) if cache._path_of(str(n)).exists()}
    assert {0, 3} <= there and not {1, 2} & there
    cache.read("huge", 20_000, 0, 1, lambda: entry(1, 20_000))  # larger than the cache: not stored
    assert bytes_held_by(cache) <= 10_000


def test_many_threads_make_each_entry_once_and_keep_the_bound(tmp_path: Path) -> None:
    cache, made, most = Cache(tmp_path, 50_000), [], []

    def make(n: int) -> bytes:
        made.append(n)
        return entry(n % 20)

    def ask(n: int) -> bool:
        return cache.read(str(n % 20), 1000, 10, 20, lambda: make(n)) == entry(n % 20)[10:20]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))
    assert len(made) == 20
    small = Cache(tmp_path / "small", 5_000)

    def squeeze(n: int) -> bool:
        found = small.read(str(n % 40), 1000, 0, 1000, lambda: entry(n % 40))
        with small._lock("room", "room"):  # no other thread writes while the size is taken
            most.append(bytes_held_by(small))
        return found == entry(n % 40)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(squeeze, range(120)))
    assert max(most) <= 5_000


@pytest.mark.parametrize("torn", [b"", b"x" * 999, b"x" * 1001])
def test_an_entry_of_the_wrong_size_is_made_again(tmp_path: Path, torn: bytes) -> None:
    cache = Cache(tmp_path, 10_000)
    cache.read("a", 1000, 0, 1, lambda: entry(7))
    cache._path_of("a").write_bytes(torn)
    assert cache.read("a", 1000, 0, 1000, lambda: entry(8)) == entry(8)


def test_killed_writers_leave_no_torn_entry_and_no_lock(tmp_path: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from medvlm.io.cache import Cache
cache = Cache(Path({str(tmp_path)!r}), 3 << 20)
print("begun", flush=True)
for n in range(10**6):
    assert cache.read(str(n % 97), 65536, 0, 65536, lambda: bytes([n % 97]) * 65536) == bytes([n % 97]) * 65536
"""
    children = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
    for child in children:
        time.sleep(0.3)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    cache = Cache(tmp_path, 3 << 20)
    assert bytes_held_by(cache) > 1 << 20
    for n in range(97):
        assert cache.read(str(n), 65536, 0, 65536, partial(entry, n, 65536)) == bytes([n]) * 65536
    assert bytes_held_by(cache) <= 3 << 20


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a folder that nobody can write")
def test_a_folder_that_is_not_writable_is_an_error() -> None:
    with pytest.raises(StorageError, match=r"cache\.folder"):
        Cache(Path("/proc/medvlm"), 1000)
