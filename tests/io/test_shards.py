import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.forms import build_index, load_index
from medvlm.io.opening import open_shards
from medvlm.io.shard_index import index_path
from medvlm.io.shards import Entry, ShardWriter
from medvlm.io.tar import build_tar_header

KINDS = ("film", "volume")


def sample(i: int, split: str = "train") -> tuple[Sample, dict[str, bytes]]:
    """Sample i has i % 3 questions, a report when i is even, and one medium."""
    questions = tuple(
        Question(f"How many? {k}", make_truth("count", str(k), count=k, boxes=((0.0, 1.0, 2.5, 3.0),)), "count:x")
        for k in range(i % 3)
    )
    media = (Medium(KINDS[i % 2], "0.bin", (4, 5), (0.5, 0.5)),)
    made = Sample(f"{i:016x}", "made", split, media, "a räport" if i % 2 == 0 else "", f"c{i}", questions, f"p{i}")
    return made, {"0.bin": bytes([i]) * (100 + i)}


def write(folder: Path, n: int = 10, split: str = "train", first: int = 0, max_bytes: int = 256 << 20) -> list[Path]:
    with ShardWriter(folder, split, max_bytes) as writer:
        for i in range(first, first + n):
            writer.write(*sample(i, split))
    return sorted(folder.glob(f"{split}-*.tar"))


def test_samples_are_read_back_as_written(tmp_path):
    write(tmp_path, 10, max_bytes=5000)
    write(tmp_path, 3, "test", first=10)
    shards = open_shards(tmp_path)
    assert shards.splits == ("test", "train")
    assert (shards.count("train"), shards.count("test")) == (10, 3)
    assert len(list(tmp_path.glob("train-*.tar"))) > 2
    for i in range(10):
        assert shards.read("train", i) == sample(i)
    for i in range(3):
        assert shards.read("test", i) == sample(10 + i, "test")


def test_entry_describes_a_sample_without_reading_it(tmp_path):
    write(tmp_path, 10, max_bytes=5000)
    shards = open_shards(tmp_path)
    assert shards.entry("train", 5) == Entry(f"{5:016x}", {"count": 2}, False, ("volume",), {"concept": "c5"})
    assert shards.entry("train", 6) == Entry(f"{6:016x}", {}, True, ("film",), {"concept": "c6"})


def test_an_index_out_of_range_or_an_unknown_split_is_an_error(tmp_path):
    write(tmp_path, 3)
    shards = open_shards(tmp_path)
    for i in (-1, 3):
        with pytest.raises(IndexError):
            shards.read("train", i)
    with pytest.raises(DataError, match=r"no split 'val' \(found train\)"):
        shards.count("val")


def test_no_tar_exceeds_max_bytes(tmp_path):
    tars = write(tmp_path, 40, max_bytes=20480)
    assert len(tars) > 2
    assert all(tar.stat().st_size <= 20480 + 10240 for tar in tars)  # a tar ends at a full record of 10240 bytes
    big = write(tmp_path / "big", 2, max_bytes=1)
    assert len(big) == 2, "a sample larger than the limit has a tar of its own"


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, 10, max_bytes=9000)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab")
    assert first == second and len(first) >= 4
    assert open_shards(tmp_path / "a").fingerprint == open_shards(tmp_path / "b").fingerprint
    write(tmp_path / "c", 10, first=1, max_bytes=9000)
    assert open_shards(tmp_path / "c").fingerprint != open_shards(tmp_path / "a").fingerprint


def test_tars_record_no_user_and_no_time(tmp_path):
    (tar,) = write(tmp_path, 3)
    with tarfile.open(tar) as opened:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in opened.getmembers()} == {(0, 0, 0, "", "")}


def test_webdataset_reads_the_tars(tmp_path):
    import webdataset

    tars = write(tmp_path, 10, max_bytes=9000)
    found = list(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False))
    assert [item["__key__"] for item in found] == [f"{i:016x}" for i in range(10)]
    assert [Sample.from_json(json.loads(item["json"])) for item in found] == [sample(i)[0] for i in range(10)]
    assert [item["0.bin"] for item in found] == [sample(i)[1]["0.bin"] for i in range(10)]


def test_the_bytes_equal_those_of_webdatasets_writer(tmp_path):
    from webdataset.writer import TarWriter

    (tar,) = write(tmp_path, 10)
    with TarWriter(str(tmp_path / "theirs"), user="", group="", encoder=False, compress=False, mtime=0) as theirs:
        for i in range(10):
            made, files = sample(i)
            theirs.write(
                {"__key__": made.key, "json": json.dumps(made.to_json(), ensure_ascii=False).encode(), **files}
            )
    assert tar.read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize(
    "name", ["0123456789abcdef.json", "0123456789abcdef.0.png", "x" * 95 + ".json", "x" * 96 + ".json", "ü.json"]
)
@pytest.mark.parametrize("size", [0, 511, 10**6, 8**11 - 1, 8**11])
def test_a_tar_header_equals_that_of_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    assert build_tar_header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_the_index_from_writing_equals_the_index_from_reading(tmp_path):
    for tar in write(tmp_path, 20, max_bytes=9000):
        written, built = load_index(tar), build_index(tar)
        assert all(np.array_equal(getattr(written, name), value) for name, value in vars(built).items())


@pytest.mark.parametrize("written", [1, 6, 9])
def test_a_writer_resumes_at_the_place_of_an_earlier_one(tmp_path, written):
    """Whatever the earlier writer wrote after sync(), here more than a full tar, is discarded."""
    write(tmp_path / "straight", 20, max_bytes=9000)
    first = ShardWriter(tmp_path / "cut", "train", 9000)
    for i in range(written):
        first.write(*sample(i))
    place = first.sync()
    for i in range(40, 46):
        first.write(*sample(i))
    first.release()
    with ShardWriter(tmp_path / "cut", "train", 9000, place) as second:
        for i in range(written, 20):
            second.write(*sample(i))
    straight, cut = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("straight", "cut"))
    assert straight == cut


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_writer_refuses_to_resume_a_damaged_part(tmp_path, damage):
    first = ShardWriter(tmp_path, "train")
    for i in range(5):
        first.write(*sample(i))
    place = first.sync()
    first.release()
    (part,) = tmp_path.glob("*.part")
    data = part.read_bytes()
    part.write_bytes(data[:-512] if damage == "cut" else data[:520] + b"!" + data[521:])
    with pytest.raises(DataError):
        ShardWriter(tmp_path, "train", place=place)


def test_the_index_has_offset_size_and_checksum_of_every_member(tmp_path):
    """Compared with Python's tarfile."""
    (tar,) = write(tmp_path, 5)
    index = build_index(tar)
    with tarfile.open(tar) as opened:
        expected = [
            (m.name, m.offset_data, m.size, zlib.crc32(tar.read_bytes()[m.offset_data : m.offset_data + m.size]))
            for m in opened.getmembers()
        ]
    keys = [index.keys_N[row].decode() for row in range(5) for _ in range(2)]
    names = [f"{key}.{index.members[code]}" for key, code in zip(keys, index.member_M, strict=True)]
    assert (
        list(zip(names, index.offset_M.tolist(), index.size_M.tolist(), index.crc_M.tolist(), strict=True)) == expected
    )
    assert (index.bytes, index.sha256) == (tar.stat().st_size, sha256(tar.read_bytes()).hexdigest())


# --- foreign tars -----------------------------------------------------------------------------------


def foreign(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, **attributes: Any) -> Path:
    with tarfile.open(path, "w", format=form) as opened:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # a fractional second makes tarfile write a pax header
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            opened.addfile(info, io.BytesIO(data))
    return path


def members_of(i: int, folder: str = "") -> list[tuple[str, bytes]]:
    made, files = sample(i)
    key = f"{folder}{made.key}"
    text = json.dumps({**made.to_json(), "key": key}).encode()
    return [(f"{key}.json", text), *((f"{key}.{name}", data) for name, data in files.items())]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_without_index_is_indexed_once(tmp_path, form):
    long = "a" * 90 + "/" + "b" * 60 + "/"  # more than the 100 characters of a plain header
    tar = foreign(tmp_path / "x-000.tar", [("README", b"hello"), *members_of(1), *members_of(2, long)], form)
    shards = open_shards(str(tmp_path / "x-{000..000}.tar"))
    assert index_path(tar).is_file()
    assert shards.read("train", 0) == sample(1)
    assert shards.read("train", 1)[0].key == long + sample(2)[0].key
    again = open_shards(tmp_path)
    assert again.read("train", 1) == shards.read("train", 1) and again.fingerprint == shards.fingerprint


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/../../x.json", "..\\x.json"])
def test_names_that_lead_out_of_the_tar_are_refused(tmp_path, name):
    foreign(tmp_path / "x.tar", [(name, members_of(1)[0][1])])
    with pytest.raises(DataError, match="leads out of the tar"):
        open_shards(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    foreign(tmp_path / "x.tar", [("a.json", b"")], type=kind, linkname="/etc/passwd")
    with pytest.raises(DataError, match="not a plain file"):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.jpg", b"x"), ("a.txt", b"a report")], r"sample number 0 has no json of its own key"),
        ([("a.json", b'{"label": 3}')], "not a medvlm sample"),
        ([("a.json", b"[" * 100_000)], "not a medvlm sample"),
        ([*members_of(1), *members_of(2), *members_of(1)], "two samples have this key"),
        ([members_of(1)[0], *members_of(1)], "a member twice"),
        (members_of(1)[:1], "found"),
    ],
)
def test_tars_without_valid_samples_are_refused(tmp_path, members, reason):
    foreign(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=reason):
        open_shards(tmp_path)


# --- damage -----------------------------------------------------------------------------------------


def test_a_flipped_bit_is_reported_with_shard_and_member(tmp_path):
    (tar,) = write(tmp_path, 5)
    data = bytearray(tar.read_bytes())
    at = data.index(bytes([3]) * 103)
    data[at + 50] ^= 1
    tar.write_bytes(data)
    shards = open_shards(tmp_path)
    assert shards.read("train", 2) == sample(2)
    with pytest.raises(DataError, match=rf"train-000000\.tar: sample {3:016x}: 0\.bin has crc32"):
        shards.read("train", 3)


def test_a_tar_whose_size_differs_from_its_index_is_refused(tmp_path):
    (tar,) = write(tmp_path, 5)
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"train-000000\.tar: \d+ bytes, but its index says \d+"):
        open_shards(tmp_path)


def test_a_tar_truncated_after_opening_is_refused_when_read(tmp_path):
    (tar,) = write(tmp_path, 5)
    shards, unread = open_shards(tmp_path), open_shards(tmp_path)
    shards.read("train", 0)
    os.truncate(tar, 2048)
    with pytest.raises(DataError, match=rf"sample {4:016x}: the shard ends within it"):
        shards.read("train", 4)
    with pytest.raises(DataError, match="truncated or replaced"):
        unread.read("train", 0)


def test_a_tar_without_index_is_refused_wherever_it_is_truncated(tmp_path):
    (tar,) = write(tmp_path, 3)
    whole = tar.read_bytes()
    with tarfile.open(tar) as opened:
        last = opened.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512  # only empty blocks follow
    assert whole[end:].strip(b"\0") == b""
    cuts = [*range(0, end, 100), *range(0, end + 1, 512)]
    for cut in cuts:
        index_path(tar).unlink(missing_ok=True)
        tar.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"train-000000\.tar"):
            open_shards(tmp_path)
    assert len(cuts) > 50


def test_joined_tars_are_refused(tmp_path):
    (tar,) = write(tmp_path / "a", 3)
    (tmp_path / "joined.tar").write_bytes(tar.read_bytes() * 2)
    with pytest.raises(DataError, match="more data follows its end"):
        open_shards(tmp_path / "joined.tar")


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"version": 1}', b"\xff\xfe"])
def test_a_damaged_index_is_reported_with_its_path(tmp_path, damage):
    (tar,) = write(tmp_path, 2)
    index_path(tar).write_bytes(damage)
    with pytest.raises(DataError, match=r"index\.json: a damaged index"):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("offset_M", [10**9, 0, 0, 0]),
        ("size_M", [-1, 0, 0, 0]),
        ("first_N1", [0, 2]),
        ("first_N1", [0, 4, 4]),
        ("split_N", [0, 9]),
    ],
)
def test_an_index_that_points_outside_the_tar_is_refused(tmp_path, column, value):
    (tar,) = write(tmp_path, 2)
    record = json.loads(index_path(tar).read_text())
    assert len(record[column]) > 0
    index_path(tar).write_text(json.dumps({**record, column: value}))
    with pytest.raises(DataError, match="a damaged index"):
        open_shards(tmp_path)


def test_missing_or_wrong_shards_of_a_receipt_are_refused(tmp_path):
    first, second = (write(tmp_path / name, 5, first=start)[0] for name, start in (("a", 0), ("b", 5)))
    listed = {first.name: sha256(first.read_bytes()).hexdigest()}
    (tmp_path / "a" / "packed.json").write_text(json.dumps({"shards": listed}))
    assert open_shards(tmp_path / "a").count("train") == 5
    for file in (second, index_path(second)):
        file.replace(tmp_path / "a" / file.name)
    with pytest.raises(DataError, match=r"not the shard that packed\.json"):
        open_shards(tmp_path / "a")
    (tmp_path / "a" / first.name).unlink()
    with pytest.raises(DataError, match="1 of its 1 shards are missing"):
        open_shards(tmp_path / "a")


@pytest.mark.parametrize("what", ["nothing", "empty folder", "bad pattern"])
def test_a_location_without_shards_is_an_error(tmp_path, what):
    where = {"nothing": tmp_path / "none.tar", "empty folder": tmp_path, "bad pattern": "x-{0..3.tar"}[what]
    with pytest.raises(DataError, match=r"missing|no shards|not a tar pattern"):
        open_shards(where)


# --- complete or not at all ---------------------------------------------------------------------------


def test_an_exception_while_writing_leaves_no_files(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "train", max_bytes=5000) as writer:
        for i in range(20):
            writer.write(*sample(i))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_text_that_is_not_unicode_is_refused_before_writing(tmp_path):
    made, files = sample(1)
    with ShardWriter(tmp_path, "train") as writer:
        with pytest.raises(DataError, match=r"0001: its text has a lone surrogate"):
            writer.write(Sample(**{**vars(made), "report": "\ud800"}), files)
        writer.write(*sample(2))
    assert open_shards(tmp_path).count("train") == 1


def test_a_killed_writer_leaves_no_finished_tar(tmp_path):
    """The writer is killed with several full tars, all of which must still be named .part."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_shards import sample
from medvlm.io.shards import ShardWriter
writer = ShardWriter(Path({str(tmp_path)!r}), "train", max_bytes=5000)
for i in range(30):
    writer.write(*sample(i))
print("written", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "written\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert len(list(tmp_path.glob("*.part"))) > 3
    assert list(tmp_path.glob("*.tar")) == []
    with pytest.raises(DataError, match="are unfinished"):
        open_shards(tmp_path)


# --- processes and threads ------------------------------------------------------------------------


def test_many_threads_read_one_shard_set(tmp_path, monkeypatch):
    """MAX_OPEN is smaller than the number of tars, so handles are evicted while threads read."""
    monkeypatch.setattr("medvlm.io.places.MAX_OPEN", 2)
    write(tmp_path, 30, max_bytes=5000)
    shards = open_shards(tmp_path)
    assert len(list(tmp_path.glob("*.tar"))) > 6

    order = [i % 30 for start in range(8) for i in range(start, start + 600, 7)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda i: shards.read("train", i), order)) == [sample(i) for i in order]
    assert len(shards._tars._open) <= 2  # type: ignore[attr-defined]


def test_a_shard_set_can_be_pickled(tmp_path):
    write(tmp_path, 5)
    shards = open_shards(tmp_path)
    shards.read("train", 0)
    sent = pickle.loads(pickle.dumps(shards))
    assert sent.read("train", 4) == sample(4) and sent.fingerprint == shards.fingerprint
