"""COCO instances: one JSON file of images, categories and boxes. Questions ask to count, locate and describe the
objects of an image.

Boxes are [x, y, width, height] in pixels from the upper left corner. Polygons and run-length masks are not read. An
annotation with `iscrowd` is a group of uncounted objects: its image is asked whether there are any of the class, but
not how many or where.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from medvlm.archive.box_form import BoxSurvey
from medvlm.archive.objects import (
    AsksAboutObjects,
    list_object_offers,
    list_object_tasks,
    questions,
    report,
    sort_by_class,
)
from medvlm.archive.tables.columns import columns_in, file_in, fill
from medvlm.archive.tables.records import cell_text, document
from medvlm.archive.tables.split_files import Files, by_split
from medvlm.core.cell_values import identify
from medvlm.core.content import Content
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError, did_you_mean
from medvlm.core.sample import Box, Medium, Sample


class Config(AsksAboutObjects):
    kind: Literal["coco"]
    file: Files
    """The JSON file, under the root; or, where each split has one, split -> file."""
    images: str = "."
    """Folder that the images' `file_name` is relative to, under the root."""
    medium: str
    """What the card's `media` calls the images."""
    modality: str = ""
    patient: str = ""
    """Template of the fields of an image; a dot reaches into a nested record, e.g. {metadata.patientid}."""


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """One sample per image, in file order. Raises DataError for a file that is not of the format."""
    assert root is not None, "COCO has a root"
    for split, name in by_split(config.file):
        found = _Instances(root / name)
        for unknown in sorted(set(config.classes) - set(found.categories.values())):
            raise DataError(
                f"{root / name}: no category {unknown!r}{did_you_mean(unknown, found.categories.values())}"
                f" ({len(found.categories)} categories in the file)"
            )
        if found.doubt:
            yield LeftOut(found.doubt, found.boxes)
        if found.lost:
            yield LeftOut("annotation of an image that is not listed", found.lost)
        for number, image in enumerate(found.images, 1):
            where = f"image {number} of {name}"
            try:
                raw, left_out = _sample(config, root, image, found, split, where)
            except DataError as reason:
                yield BadSample(f"{split}/{number}", str(reason), where)
                continue
            yield from (LeftOut(why, n) for why, n in left_out.items())
            yield raw


def list_content(config: Config) -> Content:
    return Content(
        tasks=list_object_tasks(config),
        media=frozenset({config.medium}),
        has_reports=bool(config.classes),
        answered=list_object_offers(config),
        splits=frozenset(split for split, _ in by_split(config.file) if split),
    )


def count(config: Config, root: Path | None) -> int:
    assert root is not None, "COCO has a root"
    return sum(len(_Instances(root / name).images) for _, name in by_split(config.file))


class _Instances:
    """images: in file order. categories: id -> name. of_image: image id -> its annotations. lost: number of annotations
    without an image. Ids are compared as identify() does: 7, 7.0 and "7" are one."""

    def __init__(self, path: Path) -> None:
        """Raises DataError if the file is missing or not of the format, or its boxes are not [x, y, width, height]."""
        if not path.is_file():
            raise DataError(f"{path}: there is no such file; reader.file of the card is relative to the root")
        content = document(path)
        lists: list[Any] = [
            content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations", "categories")
        ]
        if not all(isinstance(each, list) and all(isinstance(x, dict) for x in each) for each in lists):
            raise DataError(f"{path}: expected an object with the lists images, annotations and categories")
        images, annotations, categories = lists
        self.images: list[dict[str, Any]] = images
        _require_once(path, "images", images, "id")
        _require_once(path, "images", images, "file_name")
        _require_once(path, "categories", categories, "id")
        self.categories = {
            id_: str(each.get("name", "")).strip() for each in categories if (id_ := read_id(each.get("id")))
        }
        self.of_image: dict[str, list[dict[str, Any]]] = {
            id_: [] for image in self.images if (id_ := read_id(image.get("id")))
        }
        self.lost = 0
        for each in annotations:
            if (image := read_id(each.get("image_id"))) in self.of_image:
                self.of_image[image].append(each)
            else:
                self.lost += 1
        if self.lost and self.lost == len(annotations):
            raise DataError(f"{path}: none of its {self.lost} annotations has the image_id of one of its images")
        self._check_boxes(path)

    def _check_boxes(self, path: Path) -> None:
        survey = BoxSurvey("xywh")
        for image in self.images:
            size = (image.get("height", 0), image.get("width", 0))
            known = size if all(isinstance(side, int) for side in size) else (0, 0)
            for each in self.of_image.get(read_id(image.get("id")), ()):
                with suppress(DataError):  # told of the image that it belongs to
                    survey.add(_box(each.get("bbox")), known)
        survey.check(path)
        self.doubt, self.boxes = survey.find_doubt(), survey.boxes


def _require_once(path: Path, what: str, listed: Sequence[Mapping[str, Any]], name: str) -> None:
    """Raises DataError for two entries with the same id or file name: whose the annotations are is not certain."""
    written = Counter((read_id if name == "id" else str)(each.get(name) or "") for each in listed)
    if twice := sum(count > 1 for value, count in written.items() if value):
        raise DataError(
            f"{path}: {twice} times several {what} have the same {name}, so it is not certain which annotations are"
            " theirs; list each once"
        )


def read_id(value: Any) -> str:
    """ "" for what is no id."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return ""
    return identify(cell_text(value) or "")


def _sample(
    config: Config, root: Path, image: dict[str, Any], found: _Instances, split: str, where: str
) -> tuple[RawSample, Counter[str]]:
    """The sample, and how many objects were left out by reason."""
    name, size = image.get("file_name"), (image.get("height", 0), image.get("width", 0))
    if not isinstance(name, str) or not read_id(image.get("id")):
        raise DataError("its image has no id or no file_name")
    if not all(isinstance(each, int) and each >= 0 for each in size):
        raise DataError("its image has a height or width that is no number of pixels")
    objects: list[tuple[str, Box]] = []
    crowds: set[str] = set()
    for each in found.of_image[read_id(image["id"])]:
        category = found.categories.get(read_id(each.get("category_id")))
        if category is None:
            raise DataError("has an annotation of a category that is not listed")
        if cell_text(each.get("iscrowd")) in ("1", "true"):
            crowds.add(category)
        else:
            objects.append((category, _box(each.get("bbox"))))
    sorted_by = sort_by_class(objects, size, config.classes)
    boxes, unclear, left_out = sorted_by.boxes, sorted_by.unclear, sorted_by.left_out
    uncounted = crowds & set(config.classes)
    left_out.update({"group of objects that is not counted": len(uncounted)} if uncounted else {})
    fields = _flat(image)
    fields |= {column: "" for column in columns_in(config.patient) if column not in fields}
    key, text = f"{split}/{name}" if split else name, report(config, boxes, uncounted, unclear)
    medium = Medium(config.medium, "0", size if all(size) else (), modality=config.modality)
    asked = tuple(questions(config, boxes, key, uncounted, unclear))
    sample = Sample(key, "", split, (medium,), text, "" if unclear else text, asked, fill(config.patient, fields))
    return (
        RawSample(sample, {"0": file_in(root, f"{config.images}/{name}" if config.images != "." else name)}, where),
        left_out,
    )


def _box(value: Any) -> Box:
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(isinstance(x, int | float) and math.isfinite(x) for x in value)
    ):
        raise DataError("has an annotation without a box of four numbers")
    x, y, width, height = value
    return float(x), float(y), float(x + width), float(y + height)


def _flat(record: dict[str, Any], within: str = "") -> dict[str, str]:
    """The texts and numbers of a record; those of nested records as `outer.inner`."""
    flat: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict) and not within:
            flat |= _flat(value, f"{name}.")
        else:
            flat[f"{within}{name}"] = cell_text(value) or ""
    return flat
