"""Foreign tars, written by webdataset itself: images equal Pillow's, texts equal what was written, nothing is
unpickled."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from medvlm.core.card import Card
from medvlm.core.errors import DataError
from medvlm.io import images
from medvlm.io.cache import Cache
from medvlm.io.members import Members
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet
from medvlm.recipe.sources import choose_form

READER = {
    "kind": "webdataset",
    "media": {"film": ["jpg", "png", "*.png"]},
    "report": "txt",
    "concept": "json:finding.name",
    "groups": {"site": "json:site"},
    "questions": [
        {"text": "Is it normal?", "answer": "cls", "choices": ["yes", "no"]},
        {"text_from": "json:ask", "answer": "json:answer"},
    ],
}


def card(reader: Mapping[str, Any] = READER, **fields: Any) -> Card:
    return Card.model_validate(
        {
            "name": "theirs",
            "title": "Theirs",
            "summary": "Foreign tars.",
            "licence": {"id": "CC0-1.0", "commercial": True},
            "access": "open",
            "phi": {"status": "deidentified"},
            "media": ["film"],
            "splits": {"by": "image", "ratios": {"train": 1.0}},
            "reader": reader,
            **fields,
        }
    )


def picture(i: int, form: str, **settings: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8)).save(out, form, **settings)
    return out.getvalue()


def members(i: int) -> dict[str, Any]:
    told = {"finding": {"name": f"c{i % 3}"}, "site": "ab"[i % 2], "ask": f"Which is {i}?", "answer": i}
    return {
        "__key__": f"patient_{i}/view",
        "jpg": picture(i, "JPEG"),
        "0.png": picture(i, "PNG"),
        "txt": f"Räport {i}.".encode(),
        "cls": str(i % 2).encode(),
        "json": json.dumps(told).encode(),
    }


def write(path: Path, samples: list[dict[str, Any]]) -> Path:
    from webdataset.writer import TarWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def write_plainly(path: Path, names: list[str]) -> Path:
    """A tar of files with these names, in this order."""
    with tarfile.open(path, "w") as tar:
        for i, name in enumerate(names):
            data = picture(i, "JPEG") if name.endswith("jpg") else b"Clear lungs."
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def open_with_card(path: Path, tmp_path: Path, **how: Any) -> ShardSet:
    return open_shards(path, Cache(tmp_path / "cache", 1 << 30), choose_form(card(**how)))


def test_a_webdataset_tar_is_read_as_its_card_declares(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", [members(i) for i in range(6)])
    shards = open_with_card(tar, tmp_path)
    assert shards.is_foreign and shards.count("train") == 6 and not (tmp_path / "a.tar.index.json").exists()
    for i in range(6):
        sample, files = shards.read("train", i)
        assert (sample.report, sample.concept, sample.groups, sample.source) == (
            f"Räport {i}.",
            f"c{i % 3}",
            {"site": "ab"[i % 2]},
            "theirs",
        )
        assert [(q.text, q.truth.task, q.truth.answer) for q in sample.questions] == [
            ("Is it normal?", "choice", ["yes", "no"][i % 2]), (f"Which is {i}?", "open", str(i)),
        ]  # fmt: skip
        assert "patient" not in sample.key and sample.key == shards.entry("train", i).key
        assert [(m.kind, m.member, m.size) for m in sample.media] == [
            ("film", "0.png", (20 + i, 30)),
            ("film", "jpg", (20 + i, 30)),
        ]
        for member in ("0.png", "jpg"):
            assert np.array_equal(
                images.decode(files[member], member), np.asarray(Image.open(io.BytesIO(members(i)[member])))
            )
        entry = shards.entry("train", i)
        assert (
            entry.tasks == {"choice": 1, "open": 1}
            and entry.has_report
            and entry.groups == {"site": "ab"[i % 2], "concept": f"c{i % 3}"}
        )
    assert pickle.loads(pickle.dumps(shards)).read("train", 2)[0] == shards.read("train", 2)[0]


def test_the_fingerprint_changes_only_with_settings_that_affect_the_samples(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", [members(i) for i in range(3)])
    base = open_with_card(tar, tmp_path).fingerprint
    assert (
        open_with_card(tar, tmp_path).fingerprint
        == base
        == open_with_card(tar, tmp_path, title="Another title").fingerprint
    )
    assert open_with_card(tar, tmp_path, reader={**READER, "report": "", "ignore": ["txt"]}).fingerprint != base
    assert (
        open_with_card(tar, tmp_path, splits={"by": "image", "ratios": {"train": 0.5, "test": 0.5}}).fingerprint != base
    )


def test_volumes_are_decoded_with_their_affine(tmp_path: Path) -> None:
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    array = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    tar = write(tmp_path / "a.tar", [{"__key__": "v", "nii.gz": gzip.compress(image.to_bytes()), "txt": b"clear"}])
    reader = {
        "kind": "webdataset",
        "media": {"volume": ["nii.gz"]},
        "report": "txt",
        "unit": "HU",
        "nifti": {"hu": "as_is"},
    }
    sample, files = open_with_card(tar, tmp_path, reader=reader, media=["volume"]).read("train", 0)
    (medium,) = sample.media
    assert medium.size == (7, 6, 5) and medium.spacing_mm == pytest.approx((2.5, 0.8, 0.7)) and medium.unit == "HU"
    # Stored as RAS; the result points to the head, the back and the left.
    assert np.array_equal(files["nii.gz"], array.transpose(2, 1, 0)[:, ::-1, ::-1])


def test_an_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tar = write(tmp_path / "a.tar", [{"__key__": "x", "jpg": picture(3, "JPEG", exif=exif.tobytes())}])
    sample, files = open_with_card(tar, tmp_path, reader={"kind": "webdataset", "media": {"film": ["jpg"]}}).read(
        "train", 0
    )
    assert sample.media[0].size == (30, 23) == files["jpg"].shape[:2]


def test_samples_that_lack_a_member_are_left_out_and_counted(tmp_path: Path) -> None:
    samples = [members(i) for i in range(10)]
    del samples[2]["txt"], samples[5]["txt"], samples[7]["jpg"], samples[7]["0.png"]
    shards = open_with_card(write(tmp_path / "a.tar", samples), tmp_path)
    assert shards.count("train") == 7 and shards.left_out == {"txt": 2, "an image": 1}
    assert [shards.read("train", i)[0].report for i in range(7)] == [f"Räport {i}." for i in (0, 1, 3, 4, 6, 8, 9)]


class Trap:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path("/tmp/medvlm-was-unpickled").touch, ())


def test_undeclared_members_are_refused_or_ignored_and_never_unpickled(tmp_path: Path) -> None:
    trap = Path("/tmp/medvlm-was-unpickled")
    trap.unlink(missing_ok=True)
    samples = [{**members(i), "pyd": pickle.dumps(Trap()), "extra.pth": pickle.dumps(Trap())} for i in range(2)]
    tar = write(tmp_path / "a.tar", samples)
    with pytest.raises(
        DataError,
        match=r"a\.tar: sample number 0: its card does not declare the member '(pyd|\*\.pth)'; .*reader\.ignore",
    ):
        open_with_card(tar, tmp_path)
    shards = open_with_card(tar, tmp_path, reader={**READER, "ignore": ["pyd", "*.pth"]})
    assert shards.read("train", 1)[0].report == "Räport 1." and set(shards.read("train", 1)[1]) == {"jpg", "0.png"}
    assert not trap.exists()
    with pytest.raises(ValidationError, match="is a pickle"):
        Members(media={"film": ("pth",)})


def test_unreadable_samples_are_reported_by_number_without_their_key(tmp_path: Path) -> None:
    for broken, reason in [
        ({"cls": b"7"}, r"neither one of yes, no nor a number from 0 to 1"),
        ({"json": b"{"}, r"'json:.*' cannot be read"),
        ({"json": b'{"finding": {"name": {}}}'}, r"is a dict"),
    ]:
        tar = write(tmp_path / "a.tar", [members(0), {**members(1), **broken}])
        with pytest.raises(DataError, match=rf"a\.tar: sample number 1: .*{reason}") as caught:
            open_with_card(tar, tmp_path)
        assert "patient_" not in str(caught.value)


@pytest.mark.parametrize("name", ["kowalski", "kowalski.jpeg2", "Kowalski-Jan", "kowalski.jpg", "zq0171", "zqdoe.txt"])
def test_the_name_of_an_undeclared_member_is_not_shown(tmp_path: Path, name: str) -> None:
    tar = write(tmp_path / "a.tar", [{**members(i), name: b"x"} for i in range(2)])
    with pytest.raises(DataError, match=r"sample number 0: its card does not declare the member") as refused:
        open_with_card(tar, tmp_path)
    assert not any(part in str(refused.value).lower() for part in ("kowalski", "0171", "zqdoe"))


@pytest.mark.parametrize(
    ("keys", "media"),
    [
        (("1.2.840.1", "1.2.840.2"), ["jpg", "*.png"]),
        (("1.2.840.1", "1.2.840.2"), ["*.jpg"]),
        (("case.v2.0", "case.v2.1"), ["jpg"]),
        (("scan.2019", "scan.2020"), ["jpg"]),
    ],
)
def test_keys_with_dots_are_refused_with_what_to_do(tmp_path: Path, keys: tuple[str, str], media: list[str]) -> None:
    """A key ends at the first dot: with *.jpg, all files of one prefix would be images of one sample."""
    tar = write_plainly(tmp_path / "a.tar", [f"{key}.jpg" for key in keys])
    with pytest.raises(DataError, match="a key ends at the first dot of a file's name, so use other characters"):
        open_with_card(tar, tmp_path, reader={"kind": "webdataset", "media": {"film": media}})


@pytest.mark.parametrize(
    "names", ["a.jpg b.jpg a.txt b.txt", "a.jpg a.txt b.jpg c.jpg c.txt b.txt", "a.txt b.txt a.jpg"]
)
def test_members_of_a_sample_that_lie_apart_are_refused_with_what_to_do(tmp_path: Path, names: str) -> None:
    tar = write_plainly(tmp_path / "a.tar", names.split())
    reader = {"kind": "webdataset", "media": {"film": ["jpg"]}, "report": "txt", "max_incomplete": 1}
    with pytest.raises(DataError, match=r"not next to each other; make it again, sorted by name"):
        open_with_card(tar, tmp_path, reader=reader)


def test_a_damaged_image_is_found_when_it_is_read(tmp_path: Path) -> None:
    shards = open_with_card(
        write(tmp_path / "a.tar", [{**members(0), "jpg": b"\xff\xd8\xff and no more"}, members(1)]), tmp_path
    )
    with pytest.raises(DataError, match="jpg: a damaged JPEG"):
        shards.read("train", 0)
    assert shards.read("train", 1)


def test_patients_stay_in_one_split(tmp_path: Path) -> None:
    samples = [
        {**members(i), "json": json.dumps({"finding": {"name": ""}, "who": f"P{i % 8}"}).encode()} for i in range(40)
    ]
    reader = {
        "kind": "webdataset",
        "media": {"film": ["jpg"]},
        "patient": "json:who",
        "ignore": ["txt", "cls", "*.png"],
    }
    shards = open_with_card(
        write(tmp_path / "a.tar", samples), tmp_path, reader=reader, splits={"ratios": {"train": 0.5, "test": 0.5}}
    )
    patients = {
        split: {shards.read(split, i)[0].patient for i in range(shards.count(split))} for split in shards.splits
    }
    assert len(patients) == 2 and not patients["train"] & patients["test"] and sum(map(len, patients.values())) == 8
    assert not any("P" in patient for split in patients.values() for patient in split)


def test_tars_without_a_whole_sample_are_refused(tmp_path: Path) -> None:
    tar = write_plainly(tmp_path / "a.tar", ["a.jpg", "b.jpg", "c.txt", "d.txt"])
    with pytest.raises(DataError, match=r"no samples; 2 lack txt; 2 lack an image"):
        open_with_card(tar, tmp_path, reader={"kind": "webdataset", "media": {"film": ["jpg"]}, "report": "txt"})
