"""Masks that are kept: packed beside their medium, read back as they were, refused where they do not lie on it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydantic import ValidationError

from medvlm.archive.mask_labels import (
    UNMARKED,
    UNMARKED_OBJECT,
    MaskOptions,
    ask_for_labels,
    join_masks,
    load_labels,
)
from medvlm.archive.packing.pack import PackReceipt, pack
from medvlm.archive.packing.stored import prepare_sample
from medvlm.archive.readers import folder
from medvlm.core.card import Card
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample
from medvlm.io.images import encode_png
from medvlm.io.masks import decode_mask
from medvlm.io.opening import open_shards
from medvlm.tasks import mask
from medvlm.tasks._objects import compare_objects

FOLDER: dict[str, Any] = {
    "kind": "folder",
    "images": r"images/(?P<id>\w+)\.png",
    "medium": "scan",
    "classes": {"liver": {"one": "liver", "many": "livers"}, "tumor": {"one": "tumor", "many": "tumors"}},
    "masks": [
        {"of": "liver", "files": "masks/{id}_liver.png", "holds": "area"},
        {"of": "tumor", "files": "masks/{id}_tumor.png", "holds": "area", "threshold": 127},
    ],
    "mask": {"wordings": ["Where are {classes}?"]},
}
TABLE: dict[str, Any] = {
    "kind": "table",
    "file": "t.csv",
    "key": "{id}",
    "media": [{"file": "{image}", "kind": "scan"}],
    "mask": {"file": "{mask}", "values": {"liver": 1, "tumor": [2, 3]}, "unmarked": [9], "template": "organs"},
}


def card(reader: dict[str, Any]) -> Card:
    told = dict.fromkeys(("title", "summary", "terms", "citation", "units", "limits"), "made up")
    return Card.model_validate(
        {
            **told,
            "name": "made",
            "licence": {"id": "MIT", "commercial": True},
            "access": "open",
            "phi": {"status": "none", "note": "made up"},
            "homepage": "https://example.org",
            "language": ["en"],
            "media": ["scan"],
            "splits": {"by": "image", "ratios": {"train": 1.0}},
            "reader": reader,
        }
    )


def write(root: Path, **files: np.ndarray | str | bytes) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path = path if path.suffix else path.with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else encode_png(content))
    return root


def read_all(out: Path) -> dict[str, tuple[Sample, dict[str, Any]]]:
    """By the size of the image, which tells them apart."""
    shards = open_shards(out)
    found = [shards.read("train", i) for i in range(shards.count("train"))]
    return {str(sample.media[0].size): (sample, files) for sample, files in found}


def pack_all(reader: dict[str, Any], root: Path, out: Path) -> tuple[PackReceipt, dict[str, Any]]:
    receipt = pack(card(reader), root, out, workers=1, max_bad=1.0)
    return receipt, read_all(out)


IMAGE = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
LIVER, TUMOR = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
LIVER[2:9, 3:20], TUMOR[10:12, 5:7] = 1, 255


def test_masks_of_a_folder_are_members_of_the_shard_and_come_back_as_they_were(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    overlaps = TUMOR.copy()
    overlaps[3:5, 4:6] = 200
    write(tmp_path / "raw", images__a=IMAGE, masks__a_liver=LIVER, masks__a_tumor=TUMOR)
    write(tmp_path / "raw", images__b=IMAGE[:, :29], masks__b_liver=LIVER[:, :29], masks__b_tumor=overlaps[:, :29])
    _, found = pack_all(FOLDER, tmp_path / "raw", tmp_path / "out")
    sample, files = found["(20, 30)"]
    (question,) = sample.questions
    assert question.text == "Where are livers and tumors?" and question.template == "mask"
    assert question.truth == mask.Truth(classes=("liver", "tumor"), member="0.mask.png")
    assert np.array_equal(decode_mask(files["0.mask.png"], "m"), LIVER + 2 * (TUMOR > 127))
    sample, files = found["(20, 29)"]
    assert sample.questions[0].truth == mask.Truth(classes=("liver", "tumor"), member="0.mask.npy", overlapping=True)
    planes = decode_mask(files["0.mask.npy"], "m")
    assert np.array_equal(planes, np.stack([LIVER[:, :29], overlaps[:, :29] > 127]))
    (tar,) = (tmp_path / "out").glob("*.tar")
    index = json.loads(tar.with_name(f"{tar.name}.index.json").read_text())
    assert {"0.mask.png", "0.mask.npy", "0.png", "json"} == set(index["members"])
    theirs = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert {name for each in theirs for name in each if "mask" in name} == {"0.mask.png", "0.mask.npy"}


CELLS: dict[str, Any] = {
    **FOLDER,
    "classes": {"cell": {"one": "cell", "many": "cells"}, "clump": {"one": "clump", "many": "clumps"}},
    "masks": [
        {"of": "cell", "files": "masks/{id}_cell*.png", "holds": "object", "min_px": 2},
        {"of": "clump", "files": "masks/{id}_clump.png", "holds": "parts", "second": "masks/{id}_other.png"},
    ],
    "mask": {"objects": True},
}


def test_objects_are_told_apart_and_a_second_reader_is_kept_beside(tmp_path: Path) -> None:
    """Two cells that overlap by a column, a speck, and two clumps of which one lies under a cell."""
    image = np.full((6, 8), 7, np.uint8)
    first, other, speck, clumps = (np.zeros((6, 8), np.uint8) for _ in range(4))
    first[0:2, 0:3] = other[0:2, 2:5] = speck[5, 7] = clumps[3:5, 0:2] = clumps[1, 4:7] = 1
    files = {"masks__a_cell1": first, "masks__a_cell2": other, "masks__a_cell3": speck, "masks__a_clump": clumps}
    write(tmp_path / "raw", images__a=image, masks__a_other=clumps[::-1], **files)
    _, found = pack_all(CELLS, tmp_path / "raw", tmp_path / "out")
    ((sample, members),) = found.values()
    (truth,) = (q.truth for q in sample.questions if isinstance(q.truth, mask.Truth))
    assert truth.classes == ("cell", "clump") and truth.objects and not truth.overlapping and truth.second == ""
    labels = decode_mask(members[truth.member], "m")
    assert labels[:2].tolist() == [[1, 1, 1, 3, 3, 0, 0, 0], [1, 1, 1, 3, 3, 2, 2, 0]]
    assert labels[3, :3].tolist() == [4, 4, 0] and not labels[5].any()
    alone = {**CELLS, "mask": {"objects": True, "classes": ["clump"]}}
    _, found = pack_all(alone, tmp_path / "raw", tmp_path / "alone")
    ((sample, members),) = found.values()
    (truth,) = (q.truth for q in sample.questions if isinstance(q.truth, mask.Truth))
    assert np.array_equal(decode_mask(members[truth.second], "m"), clumps[::-1]), "all its classes have a second reader"
    with pytest.raises(ValidationError, match="masks of 'liver' are an area; say what they hold"):
        folder.Config.model_validate({**FOLDER, "mask": {"objects": True}})


def test_objects_of_a_file_of_values_are_its_components(tmp_path: Path) -> None:
    values = np.array([[1, 0, 2, 9], [0, 1, 0, 0], [3, 0, 0, 1]], np.uint8)
    write(tmp_path, **{"m": values})
    options = MaskOptions.model_validate({**{k: TABLE["mask"][k] for k in ("values", "unmarked")}, "objects": True})
    labels = load_labels(tmp_path / "m.png", options).pixels
    assert labels.tolist() == [[1, 0, 2, UNMARKED_OBJECT], [0, 1, 0, 0], [4, 0, 0, 3]]
    truth: Any = ask_for_labels(options, "k").truth
    assert truth.objects and truth.unmarked == UNMARKED_OBJECT
    held = mask.hold(truth, {"0.mask": labels})
    assert [each.true for each in compare_objects("3x4 |", held.runs, held.numbered, 2)] == [2, 2]


def test_a_mask_of_a_table_gets_its_labels_from_the_card(tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[0, :4] = [1, 2, 3, 9]
    table = "id,image,mask\n1,i/a.png,m/a.png\n2,i/b.png,\n"
    write(tmp_path / "raw", i__a=IMAGE, m__a=values, i__b=IMAGE[:9], **{"t.csv": table})
    _, found = pack_all(TABLE, tmp_path / "raw", tmp_path / "out")
    sample, files = found["(20, 30)"]
    assert sample.questions[0].template == "organs"
    assert sample.questions[0].truth == mask.Truth(classes=("liver", "tumor"), member="0.mask.png", unmarked=UNMARKED)
    labels = decode_mask(files["0.mask.png"], "m")
    assert labels[0, :5].tolist() == [1, 2, 2, UNMARKED, 0] and not labels[1:].any()
    assert not found["(9, 30)"][0].questions, "where a row names no mask, none is asked for"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values[:-1], r"0\.mask: a mask of 30 x 19 pixels, but its image has 30 x 20"),
        (lambda values: values.T, r"0\.mask: a mask of 20 x 30 pixels, but its image has 30 x 20"),
        (lambda values: values + np.uint8(7), "its mask has the value 7, which the card does not name"),
        (lambda values: np.dstack([values, values + np.uint8(90), values]), "its mask has colours"),
    ],
)
def test_a_mask_that_does_not_fit_is_quarantined(
    change: Callable[[np.ndarray], np.ndarray], reason: str, tmp_path: Path
) -> None:
    good, bad = np.zeros((20, 30), np.uint8), np.ascontiguousarray(change(np.zeros((20, 30), np.uint8)))
    table = "id,image,mask\n1,i/a.png,m/a.png\n2,i/b.png,m/b.png\n"
    write(tmp_path / "raw", i__a=IMAGE, m__a=good, i__b=IMAGE, m__b=bad, **{"t.csv": table})
    receipt, _ = pack_all(TABLE, tmp_path / "raw", tmp_path / "out")
    assert receipt.quarantined == 1 and receipt.samples == {"train": 1}
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert re.search(reason, json.loads(line)["reason"])


def test_nothing_but_labels_of_a_mask_file_is_stored(tmp_path: Path) -> None:
    info, out = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("Patient", "Jane Roe")
    Image.fromarray(LIVER).save(out, "PNG", pnginfo=info)
    write(tmp_path / "raw", images__a=IMAGE, masks__a_liver=out.getvalue(), masks__a_tumor=TUMOR)
    assert b"Jane Roe" in out.getvalue()
    pack(card(FOLDER), tmp_path / "raw", tmp_path / "out", workers=1)
    assert not any(b"Jane" in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_a_mask_is_turned_upright_as_its_picture_is(tmp_path: Path) -> None:
    """Both files say by EXIF that they lie on their side."""
    exif, files = Image.Exif(), {}
    exif[0x0112] = 6
    values = np.zeros((20, 30), np.uint8)
    values[0, :10] = 1
    for name, pixels in (("i__a", (IMAGE % 256).astype(np.uint8)), ("m__a", values)):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", exif=exif)
        files[name] = out.getvalue()
    write(tmp_path / "raw", **files, **{"t.csv": "id,image,mask\n1,i/a.png,m/a.png\n"})
    _, found = pack_all(TABLE, tmp_path / "raw", tmp_path / "out")
    _, stored = found["(30, 20)"]
    assert decode_mask(stored["0.mask.png"], "m")[:10, -1].all() and decode_mask(stored["0.mask.png"], "m").sum() == 10


def test_a_volume_of_nifti_is_packed_with_its_mask_and_one_that_lies_elsewhere_is_not(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 900, (8, 6, 5)).astype(np.int16)
    labels = rng.integers(0, 4, (8, 6, 5)).astype(np.uint8)
    affine, moved = np.diag([2.0, 2.0, 3.0, 1.0]), np.diag([2.0, 2.0, 3.0, 1.0])
    moved[2, 3] = 30.0
    root = tmp_path / "raw"
    root.mkdir()
    for name, array, where in (("a", volume, affine), ("m", labels, affine), ("far", labels, moved)):
        image = nibabel.Nifti1Image(array, where)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, root / f"{name}.nii.gz")
    write(root, **{"t.csv": "id,image,mask\n1,a.nii.gz,m.nii.gz\n2,a.nii.gz,far.nii.gz\n"})
    receipt, found = pack_all(TABLE, root, tmp_path / "out")
    assert receipt.quarantined == 1
    assert "its affine differs from that of its image" in (tmp_path / "out" / "quarantine.jsonl").read_text()
    ((sample, files),) = found.values()
    stored = decode_mask(files["0.mask.npy"], "m")
    assert stored.shape == sample.media[0].size == (5, 6, 8)
    # The volume is put in order as the radiologist sees it; its mask with it.
    pixels = np.load(io.BytesIO(files["0.npy"]))
    by_value = {int(v): int(label) for v, label in zip(volume.ravel(), labels.ravel(), strict=True)}
    alone = [v for v in np.unique(volume) if (volume == v).sum() == 1]
    meaning = {0: 0, 1: 1, 2: 2, 3: 2}
    assert len(alone) > 100
    assert all(stored[pixels == v] == meaning[by_value[int(v)]] for v in alone)


def test_a_folder_of_volumes_keeps_their_masks(real_data: Path, tmp_path: Path) -> None:
    """The spinal cord in a T2 image, by hand."""
    pytest.importorskip("nibabel")
    reader = {
        "kind": "folder",
        "images": r"(?P<name>t2)/t2\.nii\.gz",
        "medium": "scan",
        "classes": {"cord": {"one": "spinal cord", "many": "spinal cord"}},
        "masks": [{"of": "cord", "files": "{name}/t2_seg-manual.nii.gz", "holds": "area"}],
        "mask": {},
        "nifti": {"length": "mm"},
    }
    _, found = pack_all(reader, real_data / "volumes" / "sct_testing_data", tmp_path / "out")
    ((sample, files),) = found.values()
    cord = decode_mask(files["0.mask.npy"], "m")
    assert cord.shape == sample.media[0].size and 1000 < cord.sum() < 0.2 * cord.size
    values = np.load(io.BytesIO(files["0.npy"]))
    assert abs(values[cord == 1].mean() - values.mean()) > 50, "the mask lies on what it marks"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": {"a": 1, "b": [1, 2]}}, "each value once, and not 0"),
        ({"values": {"a": 0}}, "each value once, and not 0"),
        ({"values": {"a": []}}, "a has no value"),
        ({"values": {"a": [], "b": []}, "threshold": 9}, "marks a single class"),
        ({"values": {"a": 1}, "threshold": 9}, "marks a single class"),
    ],
)
def test_what_a_card_says_of_values_is_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MaskOptions.model_validate(settings)


def test_a_folder_is_not_asked_for_masks_that_it_does_not_have() -> None:
    with pytest.raises(ValidationError, match="mask asks for 'spleen', which has no entry in `masks`"):
        folder.Config.model_validate({**FOLDER, "mask": {"classes": ["spleen"]}})


def test_masks_that_do_not_overlap_become_one_map() -> None:
    first = np.array([[True, False, False]])
    labels, overlapping = join_masks([first, ~first])
    assert labels.tolist() == [[1, 2, 2]] and not overlapping
    planes, overlapping = join_masks([first, first])
    assert planes.shape == (2, 1, 3) and overlapping


def test_a_label_of_a_sample_without_its_member_is_refused() -> None:
    asked = Question("?", mask.Truth(classes=("a",), member="0.mask"), "mask")
    raw = RawSample(Sample("k", "", "", (Medium("scan", "0", ()),), questions=(asked,)), {"0": IMAGE})
    with pytest.raises(DataError, match=r"mask: there is no member 0\.mask"):
        prepare_sample(raw, card(FOLDER))


# --- planes, and outlines ---------------------------------------------------------------------------


def test_planes_are_found_by_the_name_of_their_class(tmp_path: Path) -> None:
    from medvlm.archive.mask_labels import TableMask, find_loader

    planes = np.zeros((4, 3, 5), bool)
    planes[1, 0], planes[3, :, 2] = True, True
    np.save(tmp_path / "m.npy", planes)
    named = {"label_dict": {"0": "rib", "1": "heart", "2": "aorta", "3": "spine"}, "train": []}
    (tmp_path / "all.json").write_text(json.dumps(named))
    told = {"file": "m.npy", "planes": ["spine", "heart"], "numbered": "all.json#label_dict"}
    asked = TableMask.model_validate(told)
    loaded = find_loader(tmp_path / "m.npy", asked, tmp_path)().pixels
    assert np.array_equal(loaded, planes[[3, 1]]) and asked.names == ("spine", "heart")
    with pytest.raises(DataError, match="no plane is of 'hart', did you mean 'heart'"):
        find_loader(tmp_path / "m.npy", TableMask.model_validate({**told, "planes": ["hart"]}), tmp_path)
    np.save(tmp_path / "few.npy", planes[:2])
    with pytest.raises(DataError, match="has 2 planes, and the card asks for number 3"):
        find_loader(tmp_path / "few.npy", asked, tmp_path)()
    with pytest.raises(ValueError, match="either `values`, of a mask of numbers, or `planes`"):
        TableMask.model_validate({**told, "values": {"heart": 1}})
    with pytest.raises(ValueError, match="leave out objects, unmarked and threshold"):
        TableMask.model_validate({**told, "objects": True})


def test_outlines_are_objects_with_holes(tmp_path: Path) -> None:
    from medvlm.archive.masks import MaskFiles, read_masks

    def ring(x: int, y: int, side: int) -> list[list[int]]:
        return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]

    def feature(name: str, kind: str, places: Any) -> dict[str, Any]:
        return {"geometry": {"type": kind, "coordinates": places}, "properties": {"classification": {"name": name}}}

    features = [
        feature("nucleus", "Polygon", [ring(2, 3, 10), ring(5, 6, 3)]),
        feature("other", "Polygon", [ring(0, 20, 5)]),
        feature("nucleus", "MultiPolygon", [[ring(20, 2, 4)], [ring(26, 2, 4)]]),
    ]
    (tmp_path / "a.geojson").write_text(json.dumps({"features": features}))
    told = {"of": "n", "files": "{id}.geojson", "holds": "labels", "named": "nucleus", "size": [30, 40]}
    marked = read_masks((MaskFiles.model_validate(told),), tmp_path, {"id": "a"})
    assert marked.size == (30, 40) and [box for _, box in marked.objects] == [(2, 3, 13, 14), (20, 2, 31, 7)]
    assert marked.extents["n"][3, 2] and not marked.extents["n"][7, 6] and not marked.extents["n"][22, 2]
    with pytest.raises(ValueError, match="`named` and `size` are for outlines"):
        MaskFiles.model_validate({**told, "size": None})
    (tmp_path / "a.geojson").write_text(json.dumps({"features": [feature("nucleus", "LineString", ring(1, 1, 2))]}))
    with pytest.raises(DataError, match="neither a Polygon nor a MultiPolygon"):
        read_masks((MaskFiles.model_validate(told),), tmp_path, {"id": "a"})
