"""Pascal VOC folders: an XML file of boxes beside each image becomes a sample that is asked to count, find and
describe.

Coordinates are taken as edges in pixels, as labelImg writes them (it moves 0 to 1);
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

from medvlm.archive.objects import AsksAboutObjects, questions, report, sort_by_class
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Medium, Sample

MAX_XML_BYTES = 8 << 20


class Config(AsksAboutObjects):
    kind: Literal["voc"]
    annotations: str
    """Folder of the XML files, under the root."""
    images: str
    """Folder of the images; an image is found by the name of its XML file, whatever it is called within."""
    medium: str
    """What the card's `media` calls the images."""
    modality: str = ""


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
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png")}


def _sample(config: Config, xml: Path, images: dict[str, Path], where: str) -> tuple[RawSample, Counter[str]]:
    """The sample, and how many objects were left out by reason."""
    if xml.stem not in images:
        raise DataError("there is no .jpg, .jpeg or .png of its name")
    size, objects = objects_in(xml.read_bytes())
    boxes, left_out = sort_by_class(objects, size, config.classes)
    text = report(config, boxes)
    medium = Medium(config.medium, "0", size if all(size) else (), modality=config.modality)
    sample = Sample(xml.stem, "", "", (medium,), text, text, tuple(questions(config, boxes, xml.stem)))
    return RawSample(sample, {"0": images[xml.stem]}, where), left_out
