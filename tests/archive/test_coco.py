import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.readers.coco import Config, count, read
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import make_truth
from medvlm.io.images import encode_png

CONFIG = {
    "kind": "coco",
    "file": "instances.json",
    "images": "img",
    "medium": "smear",
    "classes": {"R": {"one": "red cell", "many": "red cells"}, "W": {"one": "white cell", "many": "white cells"}},
    "count": {"wordings": ["How many {many}?"]},
    "boxes": {"wordings": ["Where is each {one}?"]},
    "presence": {"wordings": ["Any {many}?"]},
}
CATEGORIES = [{"id": 1, "name": "R"}, {"id": 5, "name": "W"}]


def image(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "height": 80, "width": 100, **fields}


def object_(number: int, category: int, *bbox: float, **fields: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": number, "category_id": category, "bbox": list(bbox), "iscrowd": 0, **fields}


def archive(
    root: Path,
    images: list[Any],
    annotations: list[Any],
    categories: list[Any] = CATEGORIES,
    name: str = "instances.json",
) -> Path:
    (root / "img").mkdir(exist_ok=True)
    for number in range(1, 4):
        (root / "img" / f"{number}.png").write_bytes(encode_png(np.zeros((80, 100), np.uint8)))
    (root / name).write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def read_all(root: Path, **settings: Any) -> list[Any]:
    return list(read(Config.model_validate({**CONFIG, **settings}), root))


def truths(raw: RawSample) -> dict[str, Any]:
    return {question.template: question.truth for question in raw.sample.questions}


def test_boxes_have_a_corner_and_a_size_and_are_counted_by_category(tmp_path):
    archive(
        tmp_path,
        [image(1), image(2)],
        [object_(1, 1, 30, 5, 10, 12.5), object_(1, 5, 0, 0, 4, 4), object_(1, 1, 2, 3, 4, 5)],
    )
    first, second = read_all(tmp_path)
    red = ((2.0, 3.0, 6.0, 8.0), (30.0, 5.0, 40.0, 17.5))
    assert truths(first) == {
        "count:R": make_truth("count", "2", count=2, boxes=red, label="red cell"),
        "count:W": make_truth("count", "1", count=1, boxes=((0, 0, 4, 4),), label="white cell"),
        "boxes:R": make_truth("boxes", boxes=red, label="red cell"),
        "boxes:W": make_truth("boxes", boxes=((0, 0, 4, 4),), label="white cell"),
        "presence:R": make_truth("choice", "yes", choices=("yes", "no"), label="red cell"),
        "presence:W": make_truth("choice", "yes", choices=("yes", "no"), label="white cell"),
    }
    assert first.sample.report == "2 red cells and 1 white cell." and first.sample.media[0].size == (80, 100)
    assert second.sample.report == "No red cells and no white cells." and set(truths(second)) == {
        "count:R",
        "count:W",
        "presence:R",
        "presence:W",
    }
    assert first.files == {"0": tmp_path / "img" / "1.png"} and first.where == "image 1 of instances.json"
    assert count(Config.model_validate(CONFIG), tmp_path) == 2


def test_a_crowd_is_there_but_neither_counted_nor_found(tmp_path):
    crowds = [object_(number, 1, 0, 0, 50, 50, iscrowd=1, segmentation={"counts": "x"}) for number in (1, 2)]
    archive(tmp_path, [image(1), image(2)], [*crowds, object_(1, 1, 60, 0, 5, 5), object_(1, 5, 1, 1, 2, 2)])
    left_out, raw, _, alone = read_all(tmp_path)
    assert (
        left_out == LeftOut("group of objects that is not counted", 1) and truths(alone)["presence:R"].answer == "yes"
    )
    assert (
        set(truths(raw)) == {"presence:R", "presence:W", "count:W", "boxes:W"}
        and truths(raw)["presence:R"].answer == "yes"
    )
    assert raw.sample.report == "Many red cells and 1 white cell."


def test_a_patient_can_stand_in_a_record_of_the_image(tmp_path):
    archive(tmp_path, [image(1, metadata={"patientid": 17}), image(2, metadata={})], [])
    assert [raw.sample.patient for raw in read_all(tmp_path, patient="{metadata.patientid}")] == ["17", ""]


def test_boxes_end_at_the_edge_and_that_is_counted(tmp_path):
    archive(tmp_path, [image(1)], [object_(1, 1, -5, 70, 30, 30)])
    cut, raw = read_all(tmp_path)
    assert cut == LeftOut("box cut at the edge of its image", 1)
    assert truths(raw)["count:R"].boxes == ((0, 70, 25, 80),)


def test_categories_that_the_card_does_not_name_and_annotations_of_nothing_are_left_out(tmp_path):
    archive(
        tmp_path,
        [image(1)],
        [object_(1, 7, 0, 0, 1, 1), object_(4, 1, 0, 0, 1, 1)],
        [*CATEGORIES, {"id": 7, "name": "X"}],
    )
    *left_out, raw = read_all(tmp_path)
    assert set(left_out) == {
        LeftOut("annotation of an image that is not listed", 1),
        LeftOut("object of a class that the card does not name", 1),
    }
    assert truths(raw)["count:R"].count == 0


def test_an_annotation_of_a_category_that_is_not_listed_makes_its_image_bad(tmp_path):
    archive(tmp_path, [image(1), image(2)], [object_(1, 9, 0, 0, 5, 5)])
    bad, raw = read_all(tmp_path)
    assert isinstance(bad, BadSample) and "a category that is not listed" in bad.reason and raw.sample.key == "2.png"


@pytest.mark.parametrize("ids", [("1", 1), (1, "1"), (1, "0001"), (1.0, 1), ("007", 7)])
def test_ids_are_one_in_every_form(tmp_path, ids):
    of_image, of_annotation = ids
    annotation = {**object_(1, 1, 10, 10, 20, 20), "image_id": of_annotation, "category_id": "1"}
    archive(tmp_path, [image(1, id=of_image)], [annotation])
    (raw,) = read_all(tmp_path)
    assert truths(raw)["count:R"].count == 1


def test_annotations_that_all_belong_to_no_image_are_refused(tmp_path):
    archive(tmp_path, [image(1)], [object_(4, 1, 0, 0, 9, 9), object_(5, 1, 0, 0, 9, 9)])
    with pytest.raises(DataError, match="none of its 2 annotations has the image_id of one of its images"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("bad_image", "annotations", "reason"),
    [
        (image(1, file_name="9.png"), [], "its file is not there"),
        (image(1, file_name="../../x.png"), [], "leads out of the root"),
        (image(1, file_name=None), [], "no id or no file_name"),
        (image(1, height="x"), [], "no number of pixels"),
        (image(1), [object_(1, 1, 0, 0, 5)], "without a box of four numbers"),
        (image(1), [object_(1, 1, 0, 0, 5, float("nan"))], "without a box of four numbers"),
        (image(1), [{"image_id": 1, "category_id": 1}], "without a box of four numbers"),
    ],
)
def test_a_bad_image_leaves_the_others(tmp_path, bad_image, annotations, reason):
    archive(tmp_path, [bad_image, image(2)], annotations)
    bad, raw = read_all(tmp_path)
    assert isinstance(bad, BadSample) and reason in bad.reason and bad.where == "image 1 of instances.json"
    assert raw.sample.key == "2.png"


def test_each_split_can_have_its_file(tmp_path):
    archive(tmp_path, [image(1)], [], name="train.json")
    archive(tmp_path, [image(2)], [], name="val.json")
    raws = read_all(tmp_path, file={"train": "train.json", "val": "val.json"})
    assert [(raw.sample.split, raw.sample.key) for raw in raws] == [("train", "train/1.png"), ("val", "val/2.png")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "expected an object with the lists images, annotations and categories"),
        ('{"images": [], "annotations": [], "categories": [1]}', "expected an object with the lists"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "r"}]}',
            r"no category 'R', did you mean 'r'\?",
        ),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, reason):
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_all(tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"instances\.json: there is no such file"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("images", "categories", "what"),
    [
        ([image(1), image(1, file_name="2.png")], CATEGORIES, "images have the same id"),
        (
            [image(1), image(7, file_name="2.png"), {**image(3), "id": "007"}],
            CATEGORIES,
            "images have the same id",
        ),
        ([image(1), image(2, file_name="1.png")], CATEGORIES, "images have the same file_name"),
        ([image(1)], [*CATEGORIES, {"id": 1, "name": "P"}], "categories have the same id"),
        ([image(1)], [*CATEGORIES, {"id": "5", "name": "P"}], "categories have the same id"),
    ],
)
def test_an_image_or_a_category_that_is_listed_twice_is_refused(tmp_path, images, categories, what):
    """Annotations would be those of both, or one of them would be an image without any."""
    archive(tmp_path, images, [object_(1, 1, 5, 5, 9, 9)], categories)
    with pytest.raises(DataError, match=f"several {what}, so it is not certain which annotations are theirs"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("written", "is_crowd"), [(1, True), (True, True), ("1", True), ("0", False), (0, False), (None, False)]
)
def test_a_crowd_is_known_in_every_form(tmp_path, written, is_crowd):
    archive(tmp_path, [image(1)], [object_(1, 1, 5, 5, 9, 9, iscrowd=written)])
    found = [each for each in read_all(tmp_path) if isinstance(each, RawSample)]
    assert ("count:R" not in truths(found[0])) == is_crowd and truths(found[0])["presence:R"].answer == "yes"
