"""What a folder is recognized as: each layout that a finder knows, and folders that look like one and are another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvlm.archive.finders._columns import list_names, plan_columns
from medvlm.archive.finders._folder import Found, find_layouts, list_folder
from medvlm.archive.finders._masks import MaskValues, read_values
from medvlm.archive.finders._volumes import describe_volumes
from medvlm.archive.packing.stored import prepare_sample
from medvlm.archive.trial import try_card
from medvlm.commands.first_recipe import fill_card
from medvlm.core.card import Card, Splits
from medvlm.core.config import component, kinds
from medvlm.core.contracts import Deferred
from medvlm.core.errors import DataError
from medvlm.io.images import encode_png
from tests import own_folders as made


def look(root: Path, table: str = "", **roles: str) -> list[Found]:
    return find_layouts(list_folder(root, root / "own", roles, table))


def card_of(found: Found) -> Card:
    by: Any = "patient" if found.patient else "image"
    return Card(**fill_card("own", "Made.", found.reader, [found.media], found.patient, Splits(by=by)))


MAKERS: dict[str, tuple[Callable[[Path], Path], str, int]] = {
    "table": (made.make_table, "table", 40),
    "questions": (made.make_questions, "table", 30),
    "captions": (made.make_captions, "table", 30),
    "classes": (made.make_classes, "folder", 30),
    "classes of splits": (lambda root: made.make_classes(root, 5, ("train", "val", "test")), "folder", 30),
    "masks": (made.make_masks, "folder", 30),
    "masks beside": (lambda root: made.make_masks(root, beside=True), "folder", 30),
    "coco": (made.make_coco, "coco", 12),
    "dialogues": (made.make_dialogues, "llava_json", 12),
    "parquet": (made.make_parquet, "hf_dataset", 20),
    "dicom": (lambda root: made.make_dicom(root, is_identified=False), "dicom_tree", 30),
    "slides and a table": (made.make_slides, "table", 6),
    "slides in folders of classes": (lambda root: made.make_slides(root, in_classes=True), "folder", 6),
    "volumes": (made.make_volumes, "folder", 12),
    "volumes and a table": (lambda root: made.make_volumes(root, masks=False), "table", 12),
}


@pytest.mark.parametrize("layout", MAKERS)
def test_each_layout_is_read_as_it_is(layout: str, tmp_path: Path) -> None:
    make, kind, samples = MAKERS[layout]
    found, *_ = look(make(tmp_path / "data"))
    assert (found.reader["kind"], found.samples) == (kind, samples)
    trial = try_card(card_of(found), tmp_path / "data")
    assert (trial.samples, trial.tried, dict(trial.refused)) == (samples, samples, {})
    assert dict(trial.words) == ({"pseudonyms": samples} if kind == "dicom_tree" else {})


def test_every_finder_finds_one_of_them(tmp_path: Path) -> None:
    known = {"class_folders", "coco_files", "dialogues", "dicom_files", "mask_files", "object_masks", "parquet_files"}
    assert set(kinds("archive.finders")) == known | {"tables"}, "add a folder to tests/own_folders.py for a new finder"


def test_columns_have_their_roles(tmp_path: Path) -> None:
    found, *_ = look(made.make_table(tmp_path / "data"))
    reader = found.reader
    assert reader["media"] == [{"file": "png/{film}.png", "kind": "image"}]
    assert (reader["patient"], reader["groups"]) == ("{patient_id}", {"sex": "{sex}"})
    assert reader["rename"] == {"Bright": {"0": "no", "No": "no", "yes": "yes"}}
    assert reader["missing"] == ["unclear"]
    asked = {question["template"]: question for question in reader["questions"]}
    assert asked["Bright"]["choices"] == ["yes", "no"] and asked["view"]["choices"] == ["AP", "PA", "lateral"]
    assert asked["findings"]["labels"] == {"columns": {"bright": "{Bright}"}}
    assert asked["view_class"]["task"] == {"kind": "labels", "classes": ["AP", "PA", "lateral"]}
    assert "what these columns are for, which are not read: age" in found.unknown[0]


def test_a_role_that_the_user_gives_comes_first(tmp_path: Path) -> None:
    root = made.make_captions(tmp_path / "data")
    found, *_ = look(root, "captions.csv", question="caption", answer="path")
    assert [(each["text"], each["answer"]) for each in found.reader["questions"]] == [("{caption}", "{path}")]
    with pytest.raises(DataError, match=r"--captions: no column 'captoin', did you mean 'caption'\? \(columns: path, "):
        look(root, "captions.csv", captions="captoin")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["file", "Pleural Effusion", "d-dimer"], "(columns: file, Pleural Effusion, d-dimer)"),
        (["17.png", "Meier", "yes"], "(3 columns, which do not look like names"),
        (["a123456", "b"], "(2 columns, which do not look like names"),
        (["Meier", "yes"], "(2 columns, which do not look like names"),
    ],
)
def test_a_first_line_that_may_be_a_patient_is_not_shown(names: list[str], said: str) -> None:
    assert said in list_names(names)


def test_labels_of_objects_are_not_those_of_their_image() -> None:
    rows = [{"image": f"{n // 3}", "cell": ("RBC", "WBC")[n % 2], "stain": ("H", "E")[n // 3 % 2]} for n in range(60)]
    plan = plan_columns(rows, ["image"], {}, [row["image"] for row in rows])
    assert {each["template"] for each in plan.reader["questions"]} == {"stain", "stain_class"}


def test_a_table_of_boxes_asks_where_and_how_many(tmp_path: Path) -> None:
    root = made.make_questions(tmp_path / "data", 6)
    (root / "vqa.csv").unlink()
    corners = {"xmin": 2, "ymin": 3, "xmax": 20, "ymax": 30}
    rows = [{"filename": f"{n // 2}.png", "class": ("cell", "dust")[n % 2], **corners} for n in range(12)]
    made.write_table(root / "boxes.csv", rows)
    found, *_ = look(root)
    assert (found.reader["objects"]["named"], "questions" in found.reader) == ("class", False)
    trial = try_card(card_of(found), root)
    assert (trial.samples, trial.refused.total()) == (6, 0)


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ([{0: 90, 1: 10}], MaskValues((1,), True, 0, False)),
        ([{0: 90, 255: 10}], MaskValues((255,), True, 127, False)),
        ([{0: 80, 3: 5, 100: 1, 250: 4, 255: 10}], MaskValues((3, 100, 250, 255), True, 127, False)),
        ([{0: 50, 1: 25, 2: 25}] * 12, MaskValues((1, 2), False, 0, False)),
        (
            [{0: 50, **dict.fromkeys(range(1, n), 2)} for n in range(3, 20)],
            MaskValues(tuple(range(1, 19)), False, 0, True),
        ),
    ],
)
def test_values_of_masks_say_what_they_mark(masks: list[dict[int, int]], expected: MaskValues, tmp_path: Path) -> None:
    names = []
    for number, counts in enumerate(masks):
        pixels = np.repeat(list(counts), list(counts.values())).astype(np.uint8)
        names.append(f"{number}.png")
        (tmp_path / names[-1]).write_bytes(encode_png(pixels.reshape(1, -1)))
    assert read_values(tmp_path, names) == expected


def test_the_masks_of_a_folder_are_not_its_images(tmp_path: Path) -> None:
    found, *_ = look(made.make_masks(tmp_path / "data", 5, beside=True))
    assert try_card(card_of(found), tmp_path / "data").samples == 5


@pytest.mark.parametrize("in_classes", [False, True])
def test_slides_are_read_at_a_scale(in_classes: bool, tmp_path: Path) -> None:
    root = made.make_slides(tmp_path / "data", 6, in_classes)
    found, *_ = look(root)
    medium = found.reader if in_classes else found.reader["media"][0]
    assert medium["slide"] == {"mpp": 8} and "at which scale slides are to be read" in found.unknown[0]
    card = card_of(found)
    first: Any = next(iter(component("archive.readers", card.reader.kind).read(card.reader, root)))
    sample, _ = prepare_sample(first.make() if isinstance(first, Deferred) else first, card)
    assert sample.media[0].size == (192, 256), "1,536 x 2,048 micrometres"


def test_volumes_that_cannot_be_read_are_not_taken_for_ct(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"damaged")
    needs = describe_volumes(tmp_path, ["a.nii"])
    assert not needs.options and not needs.window


def test_a_photograph_in_tiff_is_no_slide(tmp_path: Path) -> None:
    root = made.make_classes(tmp_path / "data", 3)
    for path in sorted(root.rglob("*.png")):
        Image.open(path).convert("RGB").save(path.with_suffix(".tiff"))
        path.unlink()
    found, *_ = look(root)
    assert "slide" not in found.reader and try_card(card_of(found), root).refused.total() == 0


def test_volumes_get_all_that_their_headers_lack_at_once(tmp_path: Path) -> None:
    found, *_ = look(made.make_volumes(tmp_path / "data", 4))
    assert (found.reader["nifti"], found.reader["unit"], found.window) == ({"length": "mm"}, "HU", (-1000.0, 1000.0))
    assert found.reader["mask_file"]["values"] == {"label 1": 1, "label 2": 2}
    assert sum("headers do not give it" in each for each in found.unknown) == 1


def test_a_few_boxes_come_after_a_table_of_all_images(tmp_path: Path) -> None:
    root = made.make_table(tmp_path / "data")
    made.make_coco(tmp_path / "coco")
    shutil.copytree(tmp_path / "coco", root / "boxes")
    assert [each.reader["kind"] for each in look(root)] == ["table", "coco"]
    assert [each.reader["kind"] for each in look(root, "films.csv")] == ["table"]
