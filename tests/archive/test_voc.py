from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.readers.voc import Config, count, objects_in, read
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import make_truth
from medvlm.io.images import encode_png

CONFIG = {
    "kind": "voc", "annotations": "xml", "images": "img", "medium": "smear",
    "classes": {"R": {"one": "red cell", "many": "red cells"}, "W": {"one": "white cell", "many": "white cells"}},
    "count": {"wordings": ["How many {many}?"]},
    "boxes": {"wordings": ["Where is each {one}?"], "max_boxes": 2},
    "presence": {"wordings": ["Any {many}?"], "classes": ["W"]},
}  # fmt: skip


def xml(*objects: tuple[Any, ...], size: tuple[int, int] = (100, 80)) -> str:
    """objects: (name, x1, y1, x2, y2). size: width, height."""
    body = "".join(
        f"<object><name>{name}</name>"
        f"<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{body}</annotation>"


def archive(root: Path, **files: str) -> Path:
    (root / "xml").mkdir(exist_ok=True)
    (root / "img").mkdir(exist_ok=True)
    for stem, text in files.items():
        (root / "xml" / f"{stem}.xml").write_text(text)
        (root / "img" / f"{stem}.png").write_bytes(encode_png(np.zeros((80, 100), np.uint8)))
    return root


def read_all(root: Path, **settings: Any) -> list[Any]:
    return list(read(Config.model_validate({**CONFIG, **settings}), root))


def truths(raw: RawSample) -> dict[str, Any]:
    return {q.template: q.truth for q in raw.sample.questions}


def test_objects_are_counted_found_and_described(tmp_path):
    archive(tmp_path, a=xml(("R", 30, 5, 40, 15), ("W", 50, 50, 90, 70), ("R", 10, 20, 25, 30)))
    (raw,) = read_all(tmp_path)
    red = ((10.0, 20.0, 25.0, 30.0), (30.0, 5.0, 40.0, 15.0))
    white = ((50.0, 50.0, 90.0, 70.0),)
    assert truths(raw) == {
        "count:R": make_truth("count", "2", count=2, boxes=red, label="red cell"),
        "count:W": make_truth("count", "1", count=1, boxes=white, label="white cell"),
        "boxes:R": make_truth("boxes", boxes=red, label="red cell"),
        "boxes:W": make_truth("boxes", boxes=white, label="white cell"),
        "presence:W": make_truth("choice", "yes", choices=("yes", "no"), label="white cell"),
    }
    assert [q.text for q in raw.sample.questions[::2]] == [
        "How many red cells?",
        "Where is each red cell?",
        "Any white cells?",
    ]
    assert raw.sample.report == "2 red cells and 1 white cell."
    assert raw.sample.media[0].size == (80, 100) and raw.files == {"0": tmp_path / "img" / "a.png"}


def test_places_are_asked_for_one_to_max_boxes(tmp_path):
    three = [("R", 10 * i, 0, 10 * i + 5, 9) for i in range(3)]
    archive(tmp_path, a=xml(*three))
    assert set(truths(read_all(tmp_path)[0])) == {"count:R", "count:W", "presence:W"}
    assert set(truths(read_all(tmp_path, boxes={"wordings": ["?"]})[0])) == {
        "count:R",
        "count:W",
        "presence:W",
        "boxes:R",
    }


def test_an_empty_image_has_none_of_them(tmp_path):
    archive(tmp_path, a=xml())
    (raw,) = read_all(tmp_path)
    assert raw.sample.report == "No red cells and no white cells."
    assert {name: truth.answer for name, truth in truths(raw).items()} == {
        "count:R": "0",
        "count:W": "0",
        "presence:W": "no",
    }


def test_equal_reports_are_one_concept(tmp_path):
    archive(tmp_path, a=xml(("R", 1, 1, 9, 9)), b=xml(("R", 2, 2, 8, 8)), c=xml())
    a, b, c = (raw.sample.concept for raw in read_all(tmp_path))
    assert a == b != c


def test_objects_of_other_classes_are_left_out_and_counted(tmp_path):
    archive(tmp_path, a=xml(("X", 1, 1, 5, 5), ("R", 1, 1, 5, 5)))
    left_out, raw = read_all(tmp_path)
    assert truths(raw)["count:R"].count == 1
    assert left_out == LeftOut("object of a class that the card does not name", 1)


def test_boxes_end_at_the_edge_of_the_image(tmp_path):
    archive(tmp_path, a=xml(("R", -3, -2, 130, 95)))
    assert truths(read_all(tmp_path)[-1])["count:R"].boxes == ((0, 0, 100, 80),)


def test_images_and_annotations_without_each_other(tmp_path):
    archive(tmp_path, a=xml(), b=xml(), c=xml())
    (tmp_path / "img" / "a.png").unlink()
    (tmp_path / "xml" / "b.xml").unlink()
    bad, raw, left_out = read_all(tmp_path)
    assert bad == BadSample(
        "a", "there is no .jpg, .jpeg, .png, .webp, .bmp, .gif, .jp2 of its name", "file 1 of 2 in xml"
    )
    assert raw.sample.key == "c" and left_out == LeftOut("image without annotation", 1)
    assert count(Config.model_validate(CONFIG), tmp_path) == 2


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;&b;">]><annotation>&c;</annotation>'
FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "document type"),
        (FILE, "document type"),
        (BOMB.encode("utf-16").decode("latin-1"), "document type"),
        ("<annotation>", "damaged"),
        ("", "damaged"),
        (xml(("R", "x", 1, 2, 3)), "not made of numbers"),
        (xml(("R", "", 1, 2, 3)), "not made of numbers"),
        (xml(("R", "nan", 1, 2, 3)), "not made of numbers"),
        (xml(("R", 1, 1, "inf", 3)), "not made of numbers"),
        ("<annotation><object><name>R</name></object></annotation>", "not made of numbers"),
    ],
)
def test_hostile_and_damaged_xml_is_refused(text, reason):
    with pytest.raises(DataError, match=reason):
        objects_in(text.encode("latin-1"))


def test_one_damaged_file_leaves_the_others(tmp_path):
    archive(tmp_path, a=BOMB, b=xml())
    bad, raw = read_all(tmp_path)
    assert isinstance(bad, BadSample) and bad.where == "file 1 of 2 in xml" and raw.sample.key == "b"


def test_an_archive_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"xml: no \.xml files"):
        read_all(tmp_path)
    archive(tmp_path, a=xml())
    with pytest.raises(DataError, match="elsewhere: there is no such folder"):
        read_all(tmp_path, images="elsewhere")


def test_a_question_about_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="asks about 'Z', expected one of the classes R, W"):
        Config.model_validate({**CONFIG, "count": {"wordings": ["?"], "classes": ["Z"]}})


def test_objects_become_images_that_are_asked_for_their_class(tmp_path):
    archive(tmp_path, a=xml(("R", 30, 5, 40, 15), ("W", 50, 50, 90, 70), ("R", 0, 70, 12, 80)))
    pixels = np.arange(80 * 100, dtype=np.uint16).reshape(80, 100)
    (tmp_path / "img" / "a.png").write_bytes(encode_png(pixels))
    own = {"crops": {"margin": 0.5, "wordings": ["Which cell?"]}, "count": None, "boxes": None, "presence": None}
    found = read_all(tmp_path, **own)
    assert [raw.sample.groups for raw in found] == [{"class": "R"}, {"class": "R"}, {"class": "W"}]
    assert {raw.sample.patient for raw in found} == {"a"} and len({raw.sample.key for raw in found}) == 3
    assert [truths(raw)["class"].answer for raw in found] == ["R", "R", "W"]
    assert truths(found[2])["class"] == make_truth("labels", classes=("R", "W"), labels=(False, True))
    first, corner, white = (raw.files["0"]().pixels for raw in found)
    assert np.array_equal(first, pixels[0:20, 25:45])
    assert np.array_equal(corner, pixels[65:80, 0:18]), "no further than the image goes"
    assert np.array_equal(white, pixels[40:80, 30:100])


def test_crops_are_asked_nothing_else(tmp_path):
    with pytest.raises(ValueError, match="leave out count, boxes, presence, points and detect"):
        read_all(tmp_path, crops={})
