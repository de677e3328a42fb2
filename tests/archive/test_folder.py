from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvlm.archive.masks import objects_in, percent
from medvlm.archive.readers.folder import Config, count, read
from medvlm.core.contracts import Deferred, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import make_truth
from medvlm.io.images import encode_png

CONFIG: dict[str, Any] = {
    "kind": "folder", "images": r"images/(?P<who>\d+)(?P<eye>[LR])\.png", "medium": "fundus", "patient": "{who}",
    "classes": {"cell": {"one": "cell", "many": "cells"}},
    "masks": [{"of": "cell", "files": "masks/{who}{eye}*.png", "holds": "object"}],
    "count": {"wordings": ["How many {many}?"]}, "boxes": {"wordings": ["Where?"]},
    "questions": [{"text": "Which eye?", "answer": "{eye}", "choices": ["left", "right"], "template": "eye"}],
    "rename": {"eye": {"L": "left", "R": "right"}},
}  # fmt: skip


def drawn(*marks: tuple[int, int, int, int], value: int = 255, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """marks: (x1, y1, x2, y2)."""
    mask_HW = np.zeros(size, np.uint8)
    for x1, y1, x2, y2 in marks:
        mask_HW[y1:y2, x1:x2] = value
    return mask_HW


def archive(root: Path, image: str = "1L", **masks: np.ndarray) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    (root / "images" / f"{image}.png").write_bytes(encode_png(np.zeros((20, 30, 3), np.uint8)))
    for name, mask_HW in masks.items():
        (root / "masks" / f"{image}{name}.png").write_bytes(encode_png(mask_HW))
    return root


def read_all(root: Path, **settings: Any) -> list[Any]:
    """The samples as the process that decodes makes them; what cannot be made is its DataError."""
    return [made(item) for item in read(Config.model_validate({**CONFIG, **settings}), root)]


def made(item: RawSample | Deferred) -> RawSample | DataError:
    try:
        return item.make() if isinstance(item, Deferred) else item
    except DataError as reason:
        return reason


def truths(raw: RawSample) -> dict[str, Any]:
    return {question.template: question.truth for question in raw.sample.questions}


# --- masks -----------------------------------------------------------------------------------------


def test_objects_of_a_mask_are_told_apart_as_the_card_says():
    mask_HW = drawn((2, 3, 5, 9), (10, 0, 12, 2), (20, 10, 30, 20))
    boxes = {(2, 3, 5, 9): 18, (10, 0, 12, 2): 4, (20, 10, 30, 20): 100}
    assert dict(objects_in(mask_HW, "parts")) == boxes
    assert objects_in(mask_HW, "object") == [((2, 0, 30, 20), 122)]
    labels_HW = (
        drawn((2, 3, 5, 9), value=7).astype(np.int32) + drawn((5, 3, 8, 9), value=900 & 255).astype(np.int32) * 300
    )
    assert dict(objects_in(labels_HW, "labels")) == {
        (2, 3, 5, 9): 18,
        (5, 3, 8, 9): 18,
    }, "they touch, and have each a value"


def test_parts_that_touch_at_a_corner_are_one():
    assert objects_in(drawn((0, 0, 2, 2), (2, 2, 4, 4)), "parts") == [((0, 0, 4, 4), 8)]


@pytest.mark.parametrize("holds", ["object", "parts", "labels"])
def test_an_empty_mask_has_no_object_and_a_full_one_has_one(holds):
    assert objects_in(np.zeros((4, 6), np.uint8), holds) == []
    assert objects_in(np.full((4, 6), 9, np.uint8), holds) == [((0, 0, 6, 4), 24)]


def test_a_threshold_says_what_is_marked():
    mask_HW = drawn((0, 0, 4, 4), value=127)
    mask_HW[1, 1] = 128
    assert objects_in(mask_HW, "parts", threshold=127) == [((1, 1, 2, 2), 1)]


@pytest.mark.parametrize(("marked", "expected"), [(0, 0), (1, 1), (100, 50), (199, 100), (200, 100), (3, 2)])
def test_percent_is_the_nearest_whole_number(marked, expected):
    extent = np.arange(200) < marked
    assert percent(extent.reshape(10, 20)) == expected


# --- the reader --------------------------------------------------------------------------------------


def test_one_mask_an_object_gives_counts_and_boxes(tmp_path):
    archive(tmp_path, a=drawn((9, 3, 12, 9)), b=drawn((2, 1, 4, 2)))
    (raw,) = read_all(tmp_path)
    boxes = ((2, 1, 4, 2), (9, 3, 12, 9))
    assert truths(raw) == {
        "count:cell": make_truth("count", "2", count=2, boxes=boxes, label="cell"),
        "boxes:cell": make_truth("boxes", boxes=boxes, label="cell"),
        "eye": make_truth("choice", "left", choices=("left", "right")),
    }
    assert (raw.sample.key, raw.sample.patient, raw.sample.report) == ("images/1L.png", "1", "2 cells.")
    assert raw.sample.media[0].size == (20, 30) and raw.files == {"0": tmp_path / "images" / "1L.png"}


def test_a_tissue_is_measured_and_not_counted(tmp_path):
    archive(tmp_path, "1L", a=drawn((0, 0, 15, 20)))
    archive(tmp_path, "1R", a=drawn())
    masks = [{"of": "cell", "files": "masks/{who}{eye}*.png", "holds": "area"}]
    settings = {
        "masks": masks,
        "area": {"wordings": ["How much is {many}?"]},
        "presence": {"wordings": ["Any?"]},
        "report": "The {eye} eye.",
    }
    left, right = read_all(tmp_path, **settings)
    assert truths(left) == {
        "presence:cell": make_truth("choice", "yes", choices=("yes", "no"), label="cell"),
        "area:cell": make_truth("count", "50", count=50, label="percent"),
        "eye": make_truth("choice", "left", choices=("left", "right")),
    }
    assert left.sample.report == "The left eye. The cells cover 50 percent of the image."
    assert truths(right)["presence:cell"].answer == "no" and truths(right)["area:cell"].count == 0


def test_the_extent_of_a_tissue_is_what_lies_above_the_threshold(tmp_path):
    archive(tmp_path, a=np.maximum(drawn((0, 0, 30, 10), value=100), drawn((0, 10, 15, 20))))
    masks = [{"of": "cell", "files": "masks/{who}{eye}*.png", "holds": "area", "threshold": 127}]
    (raw,) = read_all(tmp_path, masks=masks, area={"wordings": ["?"]})
    assert truths(raw)["area:cell"].count == 25


def test_specks_and_empty_masks_are_left_out(tmp_path):
    archive(tmp_path, a=drawn((0, 0, 1, 3)), b=drawn((5, 5, 9, 9)), c=drawn())
    (raw,) = read_all(tmp_path, masks=[{**CONFIG["masks"][0], "min_px": 4}])
    assert raw.left_out == {"object of less than min_px pixels": 1, "mask without a marked pixel": 1}
    assert truths(raw)["count:cell"].count == 1


def test_masks_may_be_jpeg_or_of_equal_colours(tmp_path):
    archive(tmp_path)
    mask = Image.fromarray(np.repeat(drawn((8, 8, 16, 16))[:, :, None], 3, 2))
    mask.save(tmp_path / "masks" / "1L.jpg", quality=95)
    (raw,) = read_all(
        tmp_path, masks=[{"of": "cell", "files": "masks/{who}{eye}.*", "holds": "parts", "threshold": 127, "min_px": 4}]
    )
    assert truths(raw)["count:cell"].boxes == ((8, 8, 16, 16),)


@pytest.mark.parametrize(
    ("palette", "is_certain"),
    [
        ([0, 255], True),
        ([0, 1], True),
        ([255, 0], False),
        ([0, 0], False),
        ([255, 255], False),
        ([7, 3], False),
        ([7, 9], False),
    ],
)
def test_a_mask_with_a_palette_is_read_only_where_number_and_shade_agree(tmp_path, palette, is_certain):
    archive(tmp_path)
    mask = Image.fromarray((drawn((8, 8, 16, 16)) > 0).astype(np.uint8), mode="P")
    mask.putpalette([shade for shade in palette for _ in range(3)])
    mask.save(tmp_path / "masks" / "1La.png")
    (found,) = read_all(tmp_path)
    if is_certain:
        assert truths(found)["count:cell"].boxes == ((8, 8, 16, 16),)
    else:
        assert "palette whose shades do not grow with its numbers" in str(found)


@pytest.mark.parametrize(("number", "palette"), [(0, [255, 0]), (1, [0, 0]), (0, [3, 3])])
def test_an_empty_mask_with_such_a_palette_does_not_mark_everything(tmp_path, number, palette):
    archive(tmp_path)
    mask = Image.fromarray(np.full((20, 30), number, np.uint8), mode="P")
    mask.putpalette([shade for shade in palette for _ in range(3)])
    mask.save(tmp_path / "masks" / "1La.png")
    (bad,) = read_all(tmp_path)
    assert "palette whose shades do not grow" in str(bad)


@pytest.mark.parametrize("holds", ["object", "parts", "labels", "area"])
def test_a_void_border_marks_nothing_where_the_card_says_so(tmp_path, holds):
    bordered = drawn((8, 8, 16, 16), value=1)
    bordered[:2] = bordered[-2:] = 255
    archive(tmp_path, a=bordered)
    masks = [{**CONFIG["masks"][0], "holds": holds, "unmarked": [255]}]
    (raw,) = read_all(tmp_path, masks=masks, **({"area": {"wordings": ["?"]}} if holds == "area" else {}))
    found = truths(raw)
    if holds == "area":
        assert found["area:cell"].count == round(100 * 64 / bordered.size)
    else:
        assert found["count:cell"].boxes == ((8, 8, 16, 16),)


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ({}, "has no mask of cell"),
        ({"a": drawn((1, 1, 2, 2)), "b": drawn(size=(20, 31))}, "its masks differ in size"),
        ({"a": np.dstack([drawn((1, 1, 9, 9)), drawn(), drawn()])}, "a mask of cell has colours"),
    ],
)
def test_a_bad_image_leaves_the_others(tmp_path, masks, reason):
    archive(tmp_path, "1L", **masks)
    archive(tmp_path, "2R", a=drawn((1, 1, 2, 2)))
    bad, raw = read_all(tmp_path)
    assert isinstance(bad, DataError) and reason in str(bad) and raw.where == "image 2 of 2"
    assert raw.sample.patient == "2" and count(Config.model_validate(CONFIG), tmp_path) == 2


def test_a_damaged_mask_is_bad(tmp_path):
    archive(tmp_path, a=drawn((1, 1, 2, 2)))
    (tmp_path / "masks" / "1La.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    (bad,) = read_all(tmp_path)
    assert isinstance(bad, DataError) and "its mask: a damaged PNG" in str(bad)


def test_names_with_signs_of_patterns_are_taken_as_they_are(tmp_path):
    settings = {
        **CONFIG,
        "images": r"images/(?P<name>.*)\.png",
        "masks": [{"of": "cell", "files": "masks/{name}.png", "holds": "object"}],
        "patient": "",
        "questions": [],
        "rename": {},
    }
    archive(tmp_path, "a[1]*", **{"": drawn((1, 1, 3, 3))})
    archive(tmp_path, "a1x", **{"": drawn((5, 5, 6, 6))})
    raws = read_all(tmp_path, **settings)
    assert [truths(raw)["count:cell"].boxes for raw in raws] == [((5, 5, 6, 6),), ((1, 1, 3, 3),)]


def test_a_mask_out_of_the_root_is_refused(tmp_path):
    archive(tmp_path, a=drawn((1, 1, 2, 2)))
    (bad,) = read_all(tmp_path, masks=[{**CONFIG["masks"][0], "files": "../masks/{who}.png"}])
    assert isinstance(bad, DataError) and "leads out of the root" in str(bad)


def test_volumes_without_masks_are_described_by_their_path(tmp_path):
    (tmp_path / "ct.nii.gz").write_bytes(b"x")
    card = {
        "kind": "folder",
        "images": r"(?P<what>ct|mr)\.nii\.gz",
        "medium": "volume",
        "modality": "{what}",
        "unit": "HU",
        "rename": {"what": {"ct": "CT"}},
    }
    (raw,) = list[Any](read(Config.model_validate(card), tmp_path))
    medium = raw.sample.media[0]
    assert (medium.kind, medium.modality, medium.unit, medium.size) == (
        "volume",
        "CT",
        "HU",
        (),
    ) and raw.sample.report == ""


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"images": "("}, "is not a regular expression"),
        ({"patient": "{whom}"}, r"\{whom\} is not a named group of `images` \(found who, eye\)"),
        (
            {"masks": [{"of": "tissue", "files": "x", "holds": "area"}]},
            "masks of 'tissue', expected one of the classes cell",
        ),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        Config.model_validate({**CONFIG, **settings})


def test_a_folder_without_such_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file matches"):
        read_all(tmp_path)
