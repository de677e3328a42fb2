"""Boxes that are not what the card takes them for never turn an image into one without objects."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.box_form import BoxSurvey
from medvlm.archive.readers import coco, table, voc
from medvlm.core.contracts import LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, make_truth
from medvlm.core.tasks import find_task
from medvlm.io.images import encode_png

HEIGHT, WIDTH = 48, 64
ASKS: dict[str, Any] = {
    "classes": {"node": {"one": "node", "many": "nodes"}, "mass": {"one": "mass", "many": "masses"}},
    "count": {"wordings": ["How many {many}?"]},
    "boxes": {"wordings": ["Where are the {many}?"]},
    "presence": {"wordings": ["Is there any {one}?"]},
}
Objects = list[tuple[str, tuple[Any, ...]]]


def read_coco(root: Path, images: list[Objects]) -> list[Any]:
    """Boxes are written as [x, y, width, height]."""
    names = list(dict.fromkeys([*ASKS["classes"], *(name for objects in images for name, _ in objects)]))
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(len(images))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"image_id": i, "category_id": names.index(name), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for i, objects in enumerate(images)
            for name, (x1, y1, x2, y2) in objects
        ],
    }
    (root / "a.json").write_text(json.dumps(content))
    return list(coco.read(coco.Config(kind="coco", file="a.json", medium="film", **ASKS), root))


def read_voc(root: Path, images: list[Objects]) -> list[Any]:
    for i, objects in enumerate(images):
        boxes = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>"
            for name, (x1, y1, x2, y2) in objects
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (root / f"{i}.xml").write_text(f"<annotation>{size}{boxes}</annotation>")
    return list(voc.read(voc.Config(kind="voc", annotations=".", images=".", medium="film", **ASKS), root))


def read_table(root: Path, images: list[Objects]) -> list[Any]:
    with (root / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "c", "x1", "y1", "x2", "y2"])
        for i, objects in enumerate(images):
            writer.writerows([f"{i}.png", name, *box] for name, box in objects or [("", ("",) * 4)])
    settings = {"named": "c", "corners": ["x1", "y1", "x2", "y2"], **ASKS}
    config = table.Config(
        kind="table", file="t.csv", key="{file}", media=[{"file": "{file}", "kind": "film"}], objects=settings
    )
    return list(table.read(config, root))


READERS = {"coco": read_coco, "voc": read_voc, "table": read_table}
reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)
GOOD = ("node", (10, 10, 30, 30))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(encode_png(np.zeros((HEIGHT, WIDTH), np.uint8)))
    return tmp_path


def asked(items: list[Any]) -> list[dict[str, str]]:
    return [
        {question.template: question.truth.answer for question in item.sample.questions}
        for item in items
        if isinstance(item, RawSample)
    ]


@reader
@pytest.mark.parametrize(
    "box",
    [(10, 10, 10, 25), (10, 10, 25, 10), (10, 10, 10, 10), (30, 25, 10, 10), (30, 10, 10, 25), (3.1, 3.2, 3.5, 3.6)],
)
def test_an_object_without_a_box_that_can_be_used_leaves_its_class_unasked(root, read, box):
    items = read(root, [[("node", box)], [GOOD], [GOOD, ("node", box)]])
    assert [set(each) for each in asked(items)] == [
        {"count:mass", "presence:mass"},
        {"count:node", "boxes:node", "presence:node", "count:mass", "presence:mass"},
        {"count:mass", "presence:mass"},
    ]
    assert sum(item.count for item in items if isinstance(item, LeftOut) and "is not asked about" in item.reason) == 2
    assert not any("node" in item.sample.report for item in items[:2] if isinstance(item, RawSample))


@pytest.mark.parametrize("read", [read_coco, read_voc], ids=["coco", "voc"])
@pytest.mark.parametrize("box", [(70, 10, 79, 20), (10, 48, 20, 60), (-20, 5, -3, 9), (64, 0, 70, 10)])
def test_an_object_beside_its_image_leaves_its_class_unasked(root, read, box):
    items = read(root, [[("node", box)], [GOOD]])
    assert [set(each) & {"count:node", "presence:node"} for each in asked(items)] == [
        set(),
        {"count:node", "presence:node"},
    ]
    assert LeftOut("box beside its image: its class is not asked about in its image", 1) in items


@reader
@pytest.mark.parametrize(
    "boxes",
    [
        [(0.1, 0.2, 0.5, 0.6), (0.1, 0.2, 0.5, 0.9)],
        [(0.0, 0.0, 1.0, 0.5)],
        [(0, 0, 1, 1), (0.25, 0.25, 0.75, 0.75)],
    ],
)
def test_shares_of_the_image_are_refused(root, read, boxes):
    with pytest.raises(DataError, match="lie within 0 and 1: these are shares of the image"):
        read(root, [[("node", box)] for box in boxes])


@reader
def test_a_share_among_pixels_leaves_its_class_unasked(root, read):
    items = read(root, [[("node", (0.1, 0.2, 0.5, 0.6))], [GOOD], [GOOD]])
    assert "presence:node" not in asked(items)[0] and asked(items)[1]["presence:node"] == "yes"


def test_corners_where_width_and_height_are_expected_are_refused(root):
    corners = [(20, 10, 60, 40), (30, 5, 50, 45), (40, 20, 60, 30)]
    with pytest.raises(DataError, match=r"look like \[x1, y1, x2, y2\]"):
        read_coco(root, [[("node", (x1, y1, x1 + x2, y1 + y2))] for x1, y1, x2, y2 in corners])


@pytest.mark.parametrize("read", [read_voc, read_table], ids=["voc", "table"])
def test_width_and_height_where_corners_are_expected_are_refused(root, read):
    sized = [(20, 10, 8, 30), (30, 5, 20, 40), (40, 20, 10, 10), (5, 5, 20, 20)]
    with pytest.raises(DataError, match=r"3 of 4 boxes end before they begin: these look like \[x, y, width, height\]"):
        read(root, [[("node", box)] for box in sized])


@reader
@pytest.mark.parametrize("name", ["Node", "nodes", "NODE ", "no de"])
def test_a_class_that_is_spelled_otherwise_is_no_absence(root, read, name):
    bad, *others = [item for item in read(root, [[(name, GOOD[1])], [GOOD]]) if not isinstance(item, LeftOut)]
    assert "the card spells 'node'" in bad.reason and len(others) == 1


@reader
def test_an_object_without_a_class_leaves_its_image_unasked(root, read):
    items = read(root, [[("", GOOD[1])], [GOOD]])
    assert asked(items)[0] == {} and asked(items)[1]["presence:node"] == "yes"


def test_good_boxes_of_every_reader_are_the_same(root):
    images: list[Objects] = [[GOOD, ("mass", (0, 0, WIDTH, HEIGHT))], [("node", (0, 0, 1, 1))], []]
    coco_, voc_, table_ = (asked(read(root, images)) for read in READERS.values())
    assert coco_ == voc_ == table_ and table_[2]["presence:node"] == "no"


def survey(scale: float, size: tuple[int, int], count: int = 40) -> BoxSurvey:
    """Boxes all over the images, in pixels times `scale`."""
    found, draw = BoxSurvey("xyxy"), np.random.default_rng(0)
    for _ in range(count):
        x, y = draw.uniform(0, 0.8, 2)
        corners = np.array([x, y, x + 0.2, y + 0.2])
        found.add(tuple(np.rint(corners * scale)), size)
    found.add(tuple(np.array([0.7, 0.7, 0.99, 0.99]) * scale), size)
    return found


@pytest.mark.parametrize(
    ("scale", "size", "doubted"),
    [
        (1000, (2500, 3000), 1000),
        (1000, (1500, 1500), 1000),
        (100, (512, 512), 100),
        (100, (160, 700), 100),
        (1000, (1200, 3000), 0),
        (1000, (0, 0), 0),
        (400, (2500, 3000), 0),
        (2500, (2500, 3000), 0),
    ],
)
def test_boxes_that_never_pass_a_hundred_or_a_thousand_in_large_images_are_counted(scale, size, doubted):
    doubt = survey(scale, size).find_doubt()
    assert (f"none reaches beyond {doubted} " in doubt) if doubted else not doubt
    assert not survey(scale, size, 10).find_doubt(), "a few boxes prove nothing"


@pytest.mark.parametrize("reader", ["coco", "voc", "table"])
@pytest.mark.parametrize("side", [400, 90])
def test_readers_count_boxes_that_may_be_hundredths(tmp_path, reader, side, monkeypatch):
    monkeypatch.setitem(globals(), "HEIGHT", side)
    monkeypatch.setitem(globals(), "WIDTH", side)
    draw = np.random.default_rng(0)
    corners = [tuple(map(int, (x, y, x + 9, y + 9))) for x, y in draw.integers(0, 80, (24, 2))]
    objects: list[Objects] = [[("node", box)] for box in [*corners, (50, 50, 95 if side > 90 else 90, 90)]]
    for i in range(len(objects)):
        (tmp_path / f"{i}.png").write_bytes(encode_png(np.full((side, side), i, np.uint8)))
    found = {"coco": read_coco, "voc": read_voc, "table": read_table}[reader](tmp_path, objects)
    doubts = [item for item in found if isinstance(item, LeftOut) and "none reaches beyond 100" in item.reason]
    assert [item.count for item in doubts] == ([25] if side == 400 else [])
    assert sum(isinstance(item, RawSample) for item in found) == 25


@pytest.mark.parametrize("task", ["boxes", "count"])
@pytest.mark.parametrize(
    ("box", "is_right"),
    [((0.1, 0.2, 0.5, 0.6), False), ((0.0, 0.0, 0.9, 0.9), False), ((3.1, 4, 3.9, 4.9), False), ((3, 4, 3.5, 9), True)],
)
def test_boxes_of_answers_that_are_shares_of_the_image_are_refused(task, box, is_right):
    truth = make_truth("boxes", boxes=(box,)) if task == "boxes" else make_truth("count", count=1, boxes=(box,))
    media = (Medium("film", "0.png", (HEIGHT, WIDTH)),)
    if is_right:
        find_task(task).check(truth, media)
        return
    with pytest.raises(DataError, match=r"smaller than a pixel.*multiply them by its width and height"):
        find_task(task).check(truth, media)


@pytest.mark.parametrize("reader", [read_coco, read_voc, read_table])
def test_a_box_that_is_listed_twice_counts_once_and_is_noticed(tmp_path, reader):
    (tmp_path / "0.png").write_bytes(encode_png(np.zeros((HEIGHT, WIDTH), np.uint8)))
    found = reader(tmp_path, [[("node", (1, 1, 9, 9)), ("node", (1, 1, 9, 9)), ("mass", (1, 1, 9, 9))]])
    (raw,) = [item for item in found if isinstance(item, RawSample)]
    counts = {q.template: q.truth.answer for q in raw.sample.questions if q.truth.task == "count"}
    assert counts == {"count:node": "1", "count:mass": "1"}
    assert LeftOut("box of the same class at the same place as another", 1) in found
