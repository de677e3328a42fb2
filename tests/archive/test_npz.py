import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.readers.npz import Config, count, read
from medvlm.core.contracts import BadSample
from medvlm.core.errors import DataError
from medvlm.core.sample import make_truth

CONFIG = {
    "kind": "npz",
    "file": "x.npz",
    "medium": "patch",
    "labels": ["fat", "mucus"],
    "which": ["Which?"],
    "splits": {"train": "train"},
}


def write(root: Path, **arrays: Any) -> Path:
    np.savez(root / "x.npz", **arrays)
    return root


def images(n: int, *shape: int) -> np.ndarray:
    return np.arange(n * int(np.prod(shape or (4, 4))), dtype=np.uint8).reshape(n, *(shape or (4, 4)))


def read_all(root: Path, **settings: Any) -> list[Any]:
    return list(read(Config.model_validate({**CONFIG, **settings}), root))


def test_each_image_has_the_name_of_its_label(tmp_path):
    write(
        tmp_path,
        train_images=images(2),
        train_labels=np.array([[1], [0]], np.uint8),
        test_images=images(1),
        test_labels=np.array([[1]]),
    )
    settings = {"splits": {"train": "train", "test": "test"}}
    first, second, third = read_all(tmp_path, **settings)
    assert [q.truth for q in first.sample.questions] == [make_truth("choice", "mucus", choices=("fat", "mucus"))]
    assert (second.sample.report, second.sample.concept, second.sample.split, third.sample.split) == (
        "fat",
        "fat",
        "train",
        "test",
    )
    assert np.array_equal(second.files["0"], images(2)[1]) and third.sample.key == "test/0"
    assert count(Config.model_validate({**CONFIG, **settings}), tmp_path) == 3


def test_an_image_may_have_any_number_of_labels(tmp_path):
    write(tmp_path, train_images=images(3, 4, 4, 3), train_labels=np.array([[1, 1], [0, 1], [0, 0]], np.int64))
    raws = read_all(tmp_path, has=["Any {label}?"], which=[])
    assert [[(q.text, q.truth.answer) for q in raw.sample.questions] for raw in raws] == [
        [("Any fat?", "yes"), ("Any mucus?", "yes")],
        [("Any fat?", "no"), ("Any mucus?", "yes")],
        [("Any fat?", "no"), ("Any mucus?", "no")],
    ]
    assert [raw.sample.report for raw in raws] == ["fat, mucus", "mucus", ""]


def test_a_label_without_a_name_is_one_bad_sample(tmp_path):
    write(tmp_path, train_images=images(2), train_labels=np.array([[2], [0]]))
    bad, raw = read_all(tmp_path)
    assert isinstance(bad, BadSample) and bad.reason == "its label is none of 0 to 1" and raw.sample.key == "train/1"


@pytest.mark.parametrize(
    ("arrays", "settings", "reason"),
    [
        ({"train_images": images(2)}, {}, "no array 'train_labels' .1 others"),
        (
            {"train_images": images(2), "train_labels": np.array([1])},
            {},
            "with 1 labels; expected uint8 images and as many numbers",
        ),
        ({"train_images": images(2).astype(float), "train_labels": np.array([1, 0])}, {}, "expected uint8 images"),
        ({"train_images": images(2), "train_labels": np.array(["a", "b"], dtype=object)}, {}, "is damaged .ValueError"),
        (
            {"train_images": images(2), "train_labels": np.array([[1], [0]])},
            {"has": ["?"]},
            "expected a column for each of the 2 labels",
        ),
    ],
)
def test_arrays_that_are_not_those_of_the_card_are_refused(tmp_path, arrays, settings, reason):
    write(tmp_path, **arrays)
    with pytest.raises(DataError, match=reason):
        read_all(tmp_path, **settings)


def test_an_array_that_claims_more_than_it_has_is_refused(tmp_path, monkeypatch):
    """Before memory is taken for it where the archive says so, and where its own header does."""
    write(tmp_path, train_images=images(2), train_labels=np.array([[1], [0]]))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 4, 4)})
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as members:
        members.writestr("train_images.npy", header.getvalue())
        members.writestr("train_labels.npy", b"")
    with pytest.raises(DataError, match="train_images or train_labels is damaged"):
        read_all(tmp_path, file="huge.npz")
    monkeypatch.setattr("medvlm.archive.readers.npz.MAX_ARRAY_BYTES", 100)
    with pytest.raises(DataError, match="an array of 160 bytes, more than the 100 that are read"):
        read_all(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04rest", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_of_arrays_is_refused(tmp_path, data):
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.npz: not a \.npz of arrays"):
        read_all(tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"x\.npz: there is no such file"):
        read_all(tmp_path)


def test_a_label_that_is_not_known_is_not_asked(tmp_path):
    write(tmp_path, train_images=images(3), train_labels=np.array([[-1, 1], [0, -1], [1, 1]], np.int64))
    raws = read_all(tmp_path, has=["Any {label}?"], which=[])
    asked = [{q.template: q.truth.answer for q in raw.sample.questions} for raw in raws]
    assert asked == [{"has:mucus": "yes"}, {"has:fat": "no"}, {"has:fat": "yes", "has:mucus": "yes"}]
    assert [raw.sample.concept for raw in raws] == ["", "", "fat, mucus"]


@pytest.mark.parametrize("value", [2, 255, -2])
def test_a_label_that_is_neither_yes_nor_no_is_refused(tmp_path, value):
    write(tmp_path, train_images=images(2), train_labels=np.array([[value, 1], [0, 1]], np.int64))
    bad, _ = read_all(tmp_path, has=["Any {label}?"], which=[])
    assert isinstance(bad, BadSample) and f"a label of it is {value}" in bad.reason
