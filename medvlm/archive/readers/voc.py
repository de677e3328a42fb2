"""Pascal VOC folders: an XML file of boxes beside each image becomes a sample that is asked to count, find and describe.

Only what is annotated is counted. Coordinates are taken as edges in pixels, as labelImg writes them (it moves 0 to 1);
where they count pixels from 1, as in VOC itself, a box is half a pixel off on average.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree
from xml.parsers import expat

from pydantic import Field, model_validator

from medvlm.archive.wording import choose
from medvlm.core.config import Config as Base
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import BOXES_SLOT, Box, Medium, Question, Sample, Truth

MAX_XML_BYTES = 8 << 20


class VocClass(Base):
    """What one object and several of it are called in questions and reports."""

    one: str
    many: str


class VocQuestions(Base):
    wordings: tuple[str, ...] = Field(min_length=1)
    """`{one}` and `{many}` become the class's names; each image gets one of them."""
    classes: tuple[str, ...] = ()
    """Classes to ask about; empty: all."""
    max_boxes: int = Field(0, ge=0)
    """Of `boxes`: images with more of the class are not asked for all their places; 0: no limit."""


class Config(Base):
    kind: Literal["voc"]
    annotations: str
    """Folder of the XML files, under the root."""
    images: str
    """Folder of the images; an image is found by the name of its XML file, whatever it is called within."""
    medium: str
    """What the card's `media` calls the images."""
    modality: str = ""
    classes: dict[str, VocClass]
    """By the names in the XML. Objects of other classes are left out."""
    count: VocQuestions | None = None
    boxes: VocQuestions | None = None
    """Asked for the classes that the image has."""
    presence: VocQuestions | None = None
    """Answered by yes or no."""

    @model_validator(mode="after")
    def _asks_about_its_classes(self) -> Config:
        for asked in filter(None, (self.count, self.boxes, self.presence)):
            if unknown := sorted(set(asked.classes) - set(self.classes)):
                raise ValueError(f"asks about {unknown[0]!r}, expected one of the classes {', '.join(self.classes)}")
        return self


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """One sample an XML file, by name. Raises DataError when one of the folders is not there or empty."""
    annotations, images = _annotations(config, root), _images(config, root)
    for number, xml in enumerate(annotations, 1):
        where = f"file {number} of {len(annotations)} in {config.annotations}"
        try:
            raw, left_out = _sample(config, xml, images, where)
        except DataError as reason:
            yield BadSample(xml.stem, str(reason), where)
            continue
        yield from (LeftOut(why, n) for why, n in left_out.items())
        yield raw
    if bare := len(images.keys() - {xml.stem for xml in annotations}):
        yield LeftOut("image without annotation", bare)


def count(config: Config, root: Path | None) -> int:
    return len(_annotations(config, root))


def objects_in(xml: bytes) -> tuple[tuple[int, int], list[tuple[str, Box]]]:
    """Size (height, width), zeros where it is not written, and the objects in the order of the file.

    Raises DataError for what is not XML, has a DTD or entities (which can read files and fill the memory), or lacks a box.
    """
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
        raise DataError(f"{root / config.annotations}: no .xml files; reader.annotations of the card is relative to the root {root}")
    return found


def _images(config: Config, root: Path | None) -> dict[str, Path]:
    """Image by the stem of its name."""
    assert root is not None, "VOC has a root"
    folder = root / config.images
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; reader.images of the card is relative to the root {root}")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png")}


def _sample(config: Config, xml: Path, images: dict[str, Path], where: str) -> tuple[RawSample, Counter[str]]:
    """The sample, and how many objects were left out by reason."""
    if xml.stem not in images:
        raise DataError("there is no .jpg, .jpeg or .png of its name")
    size, objects = objects_in(xml.read_bytes())
    boxes: dict[str, list[Box]] = {name: [] for name in config.classes}
    left_out: Counter[str] = Counter()
    for name, box in objects:
        box = _clipped(box, size)
        if name not in boxes:
            left_out["object of a class that the card does not name"] += 1
        elif box[0] >= box[2] or box[1] >= box[3]:
            left_out["box without area"] += 1
        else:
            boxes[name].append(box)
    report = _report(config, boxes)
    medium = Medium(config.medium, "0", size if all(size) else (), modality=config.modality)
    questions = tuple(_questions(config, boxes, xml.stem))
    return RawSample(Sample(xml.stem, "", "", (medium,), report, report, questions), {"0": images[xml.stem]}, where), left_out


def _clipped(box: Box, size: tuple[int, int]) -> Box:
    height, width = size if all(size) else (math.inf, math.inf)
    return max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)


def _questions(config: Config, boxes: dict[str, list[Box]], key: str) -> Iterator[Question]:
    for kind, asked in (("count", config.count), ("boxes", config.boxes), ("presence", config.presence)):
        for name in (asked.classes or config.classes) if asked else ():
            assert asked is not None
            truth = _truth(kind, boxes[name], config.classes[name].one, asked.max_boxes)
            if truth is not None:
                wording = choose(asked.wordings, key, kind, name)
                yield Question(_named(wording, config.classes[name]), truth, f"{kind}:{name}")


def _truth(kind: str, boxes: list[Box], label: str, max_boxes: int) -> Truth | None:
    """None where the question is not asked."""
    # From left to right: a model that writes them in a fixed order has one right text, not one for every order.
    ordered = tuple(sorted(boxes))
    if kind == "count":
        return Truth("count", str(len(boxes)), count=len(boxes), boxes=ordered, label=label)
    if kind == "presence":
        return Truth("choice", "yes" if boxes else "no", ("yes", "no"), label=label)
    if not boxes or (max_boxes and len(boxes) > max_boxes):
        return None
    return Truth("boxes", BOXES_SLOT, boxes=ordered, label=label)


def _named(wording: str, names: VocClass) -> str:
    return wording.replace("{one}", names.one).replace("{many}", names.many)


def _report(config: Config, boxes: dict[str, list[Box]]) -> str:
    """`11 red blood cells, 1 white blood cell and no platelets.`"""
    parts = []
    for name, names in config.classes.items():
        n = len(boxes[name])
        parts.append(f"{n or 'no'} {names.one if n == 1 else names.many}")
    text = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return f"{text[0].upper()}{text[1:]}."
