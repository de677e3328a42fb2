"""Foreign tars that are packed: a member that must not be used is a bad sample, and the rest of all tars is packed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from medvlm.archive.packing.pack import pack
from medvlm.archive.readers.webdataset import read
from medvlm.core.contracts import BadSample, RawSample
from tests.archive.made_layouts import film
from tests.io.test_foreign import card

READER = {"kind": "webdataset", "media": {"film": ["png"]}}
GOOD = 6
"""Samples of each of two tars, besides what is added to the first."""


def make_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def write_tars(root: Path, *added: tarfile.TarInfo) -> Path:
    root.mkdir()
    for number in range(2):
        with tarfile.open(root / f"{number}.tar", "w") as tar:
            for i in range(GOOD):
                picture = film(10 * number + i)
                made = tarfile.TarInfo(f"s{number}{i}.png")
                made.size = len(picture)
                tar.addfile(made, io.BytesIO(picture))
                for each in added if (number, i) == (0, 2) else ():
                    each.size = 3 if each.isreg() else 0
                    tar.addfile(each, io.BytesIO(b"abc"))
    return root


def read_with(folder: Path, *added: tarfile.TarInfo) -> list[Any]:
    return list(read(card(READER).reader, write_tars(folder / "tars", *added)))


FAULTY = {
    "a link": make_member("doe.png", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": make_member("doe.png", tarfile.LNKTYPE, "s00.png"),
    "a device": make_member("doe.png", tarfile.CHRTYPE),
    "a pipe": make_member("doe.png", tarfile.FIFOTYPE),
    "a link without a suffix": make_member("doe", tarfile.SYMTYPE, "../doe"),
    "a parent": make_member("../../doe.png"),
    "an absolute name": make_member("/home/doe.png"),
    "a backslash": make_member("..\\doe.png"),
    "a parent within": make_member("a/../../doe.png"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_member_that_leads_out_is_one_bad_sample(kind: str, tmp_path: Path) -> None:
    items = read_with(tmp_path, FAULTY[kind])
    (bad,) = (item for item in items if isinstance(item, BadSample))
    assert sum(isinstance(item, RawSample) for item in items) == 2 * GOOD
    assert "leads out of the tar" in bad.reason or "is not a plain file" in bad.reason
    assert "doe" not in bad.reason and "passwd" not in bad.reason, "names may identify a patient"
    assert bad.where == "tar 0 sample number 3"


def test_a_sample_with_such_a_member_is_bad_as_a_whole(tmp_path: Path) -> None:
    items = read_with(tmp_path, make_member("s02.1.png", tarfile.SYMTYPE, "s00.png"))
    assert [isinstance(item, BadSample) for item in items].count(True) == 1 and len(items) == 2 * GOOD


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.XGLTYPE])
def test_folders_and_headers_are_no_samples(kind: bytes, tmp_path: Path) -> None:
    assert len(read_with(tmp_path, make_member("folder", kind))) == 2 * GOOD


def test_the_rest_of_all_tars_is_packed_and_the_bad_are_listed(tmp_path: Path) -> None:
    root = write_tars(tmp_path / "tars", *FAULTY.values())
    receipt = pack(card(READER), root, tmp_path / "out", workers=1, max_bad=0.5)
    # Neighbours with one key are one sample.
    assert sum(receipt.samples.values()) == 2 * GOOD and receipt.quarantined == 6
    listed = (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert len(listed.splitlines()) == 6 and "doe" not in listed and "passwd" not in listed
