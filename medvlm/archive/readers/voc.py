"""Pascal VOC folders: an XML file of boxes beside each image becomes a sample that is asked to count, find and
describe.

Coordinates are taken as edges in pixels, as labelImg writes them (it moves 0 to 1);
where they count pixels from 1, as in VOC itself, a box is half a pixel off on average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree
from xml.parsers import expat

from pydantic import Field, model_validator

from medvlm.archive.box_form import BoxSurvey
from medvlm.archive.crops import load_crop
from medvlm.archive.objects import (
    AsksAboutObjects,
    SortedObjects,
    list_object_offers,
    list_object_tasks,
    questions,
    report,
    sort_by_class,
)
from medvlm.archive.tables.wording import choose
from medvlm.core.config import Config as Base
from medvlm.core.content import Content, Offer, name_asked
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Medium, Question, Sample, make_truth

MAX_XML_BYTES = 8 << 20
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".jp2")


class Crops(Base):
    """Each object becomes an image of its own, which is asked for its class."""

    margin: float = Field(0.1, ge=0)
    """What is shown around the box, as a share of its sides."""
    wordings: tuple[str, ...] = Field(("What is this?",), min_length=1)
    template: str = "class"
    """What the question is called: a decoder of this name, or that `answers` it, is trained on it."""


class Config(AsksAboutObjects):
    kind: Literal["voc"]
    annotations: str
    """Folder of the XML files, under the root."""
    images: str
    """Folder of the images; an image is found by the name of its XML file, whatever it is called within."""
    medium: str
    """What the card's `media` calls the images."""
    modality: str = ""
    crops: Crops | None = None
    """In place of the images their objects. The image stands for the patient (`splits.by: patient`), so that objects of
    one image are in one split."""

    @model_validator(mode="after")
    def _asks_about_crops_alone(self) -> Config:
        if self.crops and (self.list_asked() or self.detect):
            raise ValueError(
                "`crops` asks each object for its class; leave out count, boxes, presence, points and detect"
            )
        return self


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """One sample an XML file, by name. Raises DataError when one of the folders is not there or empty."""
    annotations, images = _annotations(config, root), _images(config, root)
    survey = _survey_boxes(annotations)
    if doubt := survey.find_doubt():
        yield LeftOut(doubt, survey.boxes)
    for number, xml in enumerate(annotations, 1):
        where = f"file {number} of {len(annotations)} in {config.annotations}"
        try:
            size, objects = _objects(config, xml, images)
        except DataError as reason:
            yield BadSample(xml.stem, str(reason), where)
            continue
        yield from (LeftOut(why, n) for why, n in objects.left_out.items())
        if config.crops:
            yield from _crops(config, config.crops, xml.stem, images[xml.stem], objects.boxes, where)
        else:
            yield _sample(config, xml.stem, images[xml.stem], size, objects, where)
    if bare := len(images.keys() - {xml.stem for xml in annotations}):
        yield LeftOut("image without annotation", bare)


def list_content(config: Config) -> Content:
    crops = config.crops
    return Content(
        tasks=name_asked(labels=crops) | list_object_tasks(config),
        media=frozenset({config.medium}),
        has_reports=bool(config.classes),
        answered={crops.template: Offer("labels", tuple(config.classes))} if crops else list_object_offers(config),
        splits=frozenset(),
    )


def count(config: Config, root: Path | None) -> int:
    return len(_annotations(config, root))


def objects_in(xml: bytes) -> tuple[tuple[int, int], list[tuple[str, Box]]]:
    """Size (height, width), zeros where it is not written, and the objects in the order of the file.

    Raises DataError for what is not XML, has a DTD or entities (which can read files and fill the memory), or lacks a
    box."""
    if len(xml) > MAX_XML_BYTES:
        raise DataError(f"its XML has {len(xml)} bytes, at most {MAX_XML_BYTES} are read")
    try:
        guard = expat.ParserCreate()
        guard.StartDoctypeDeclHandler = _refuse_dtd
        guard.Parse(xml, True)
        root = ElementTree.fromstring(xml)
        size = (int(root.findtext("size/height", "0")), int(root.findtext("size/width", "0")))
        return size, [(obj.findtext("name", "").strip(), _box(obj)) for obj in root.iter("object")]
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as reason:
        raise DataError(f"its XML is damaged ({reason})") from None
    except ValueError:
        raise DataError("its XML holds a size or a box that is not made of numbers") from None


def _refuse_dtd(*_: object) -> None:
    raise DataError("its XML declares a document type, which may hold entities; refused")


def _box(element: ElementTree.Element) -> Box:
    x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError("not finite")
    return x1, y1, x2, y2


def _annotations(config: Config, root: Path | None) -> list[Path]:
    assert root is not None, "VOC has a root"
    found = sorted((root / config.annotations).glob("*.xml"))
    if not found:
        raise DataError(
            f"{root / config.annotations}: no .xml files; reader.annotations of the card is relative to the root {root}"
        )
    return found


def _images(config: Config, root: Path | None) -> dict[str, Path]:
    """Image by the stem of its name."""
    assert root is not None, "VOC has a root"
    folder = root / config.images
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; reader.images of the card is relative to the root {root}")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}


def _survey_boxes(annotations: Sequence[Path]) -> BoxSurvey:
    """Raises DataError for boxes that are no pixels."""
    survey = BoxSurvey("xyxy")
    for xml in annotations:
        with suppress(DataError):  # told of the image that it belongs to
            size, objects = objects_in(xml.read_bytes())
            for _, box in objects:
                survey.add(box, size)
    survey.check(annotations[0].parent)
    return survey


def _objects(config: Config, xml: Path, images: dict[str, Path]) -> tuple[tuple[int, int], SortedObjects]:
    """Size of the image, and its objects."""
    if xml.stem not in images:
        raise DataError(f"there is no {', '.join(SUFFIXES)} of its name")
    size, objects = objects_in(xml.read_bytes())
    return size, sort_by_class(objects, size, config.classes)


def _sample(
    config: Config, stem: str, image: Path, size: tuple[int, int], objects: SortedObjects, where: str
) -> RawSample:
    boxes, unclear = objects.boxes, objects.unclear
    text = report(config, boxes, (), unclear)
    medium = Medium(config.medium, "0", size if all(size) else (), modality=config.modality)
    sample = Sample(
        stem, "", "", (medium,), text, "" if unclear else text, tuple(questions(config, boxes, stem, (), unclear))
    )
    return RawSample(sample, {"0": image}, where)


def _crops(
    config: Config, asked: Crops, stem: str, image: Path, boxes: Mapping[str, Sequence[Box]], where: str
) -> Iterator[RawSample]:
    """A sample for each object, in the group of its class."""
    classes = tuple(config.classes)
    medium = Medium(config.medium, "0", (), modality=config.modality)
    objects = [(name, box) for name in classes for box in boxes[name]]
    for number, (name, box) in enumerate(objects):
        truth = make_truth("labels", classes=classes, labels=tuple(each == name for each in classes))
        key, shown = f"{stem}-{number}", config.classes[name].one
        question = Question(choose(asked.wordings, key, asked.template), truth, asked.template)
        sample = Sample(key, "", "", (medium,), shown, shown, (question,), stem, {"class": name})
        yield RawSample(sample, {"0": partial(load_crop, image, box, asked.margin)}, f"object {number} of {where}")
