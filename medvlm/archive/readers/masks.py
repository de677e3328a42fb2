"""Images with masks as image files beside them: boxes, counts and areas of what is marked.

A mask file shows one object (`holds: object`), several that do not touch (`parts`), several as one value each
(`labels`), or a tissue whose extent alone counts (`area`). The masks themselves are not stored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from medvlm.archive.columns import Row, columns_in, filled
from medvlm.archive.objects import AsksAboutObjects, ObjectQuestions, named, questions, report, sorted_in
from medvlm.archive.readers.table import TableQuestion, question_of
from medvlm.archive.wording import choose
from medvlm.core.config import Config as Base
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Medium, Question, Sample, Truth
from medvlm.io.images import decode

# Axes: H W height, width of the image in pixels.


class MaskFiles(Base):
    of: str
    """The class that they mark."""
    files: str
    """Path under the root with the image's `{group}`s in it; * stands for any name, where there are several files."""
    holds: Literal["object", "parts", "labels", "area"]
    threshold: int = Field(0, ge=0)
    """Values above it are marked; 127 for masks that went through JPEG."""
    min_px: int = Field(1, ge=1)
    """Smaller objects are left out: specks of JPEG noise."""


class Config(AsksAboutObjects):
    kind: Literal["masks"]
    images: str
    """Regular expression of the images' paths under the root; its named groups are what `{group}` stands for elsewhere."""
    masks: tuple[MaskFiles, ...] = Field(min_length=1)
    area: ObjectQuestions | None = None
    """What share of the image the class covers, in whole percent."""
    patient: str = ""
    split: str = ""
    questions: tuple[TableQuestion, ...] = ()
    """About what the path says."""
    rename: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Group -> what stands in the path -> what to use."""

    @field_validator("images")
    @classmethod
    def _is_a_pattern(cls, images: str) -> str:
        try:
            re.compile(images)
        except re.error as reason:
            raise ValueError(f"{images!r} is not a regular expression ({reason})") from None
        return images

    @model_validator(mode="after")
    def _speaks_of_what_is_there(self) -> Config:
        groups = re.compile(self.images).groupindex
        templates = [self.patient, self.split, *(each.files for each in self.masks)]
        templates += [text for asked in self.questions for text in (*asked.text, asked.answer, asked.template)]
        for name in [name for template in templates for name in columns_in(template)] + list(self.rename):
            if name not in groups:
                raise ValueError(f"{{{name}}} is no named group of `images` (found {', '.join(groups) or 'none'})")
        for each in self.masks:
            if each.of not in self.classes:
                raise ValueError(f"masks of {each.of!r}, expected one of the classes {', '.join(self.classes)}")
        return self


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """One sample an image, by path. Raises DataError where no path is that of an image."""
    images = _images(config, root)
    for number, (path, row) in enumerate(images, 1):
        where = f"image {number} of {len(images)}"
        try:
            raw, left_out = _sample(config, root, path, row, where)
        except DataError as reason:
            yield BadSample(path, str(reason), where)
            continue
        yield from (LeftOut(why, n) for why, n in left_out.items())
        yield raw


def count(config: Config, root: Path | None) -> int:
    return len(_images(config, root))


def objects_in(mask_HW: np.ndarray, holds: Literal["object", "parts", "labels", "area"], threshold: int = 0) -> list[tuple[Box, int]]:
    """Box and number of pixels of each object. Parts that touch at a corner are one.

    mask_HW: integers. The box of one pixel at (x, y) is (x, y, x + 1, y + 1).
    """
    from scipy import ndimage

    marked_HW = mask_HW > threshold
    if holds == "labels":
        _, labels_HW = np.unique(np.where(marked_HW, mask_HW, 0), return_inverse=True)
        labels_HW = labels_HW.reshape(mask_HW.shape) + (0 if not marked_HW.all() else 1)
    elif holds == "parts":
        labels_HW, _ = ndimage.label(marked_HW, structure=np.ones((3, 3)))
    else:
        labels_HW = marked_HW.astype(np.int32)
    sizes_px = np.bincount(labels_HW.ravel())[1:]
    slices = ndimage.find_objects(labels_HW)
    return [((float(x.start), float(y.start), float(x.stop), float(y.stop)), int(n)) for (y, x), n in zip(slices, sizes_px, strict=True)]


def _images(config: Config, root: Path | None) -> list[tuple[str, Row]]:
    """Path under the root, and what stands at the named groups. Raises DataError where there are none."""
    assert root is not None, "masks have a root"
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    found = [(path, match) for path in paths if (match := re.fullmatch(config.images, path))]
    if not found:
        raise DataError(f"{root}: no file matches {config.images!r}, which reader.images of the card says")
    return [(path, {name: config.rename.get(name, {}).get(text or "", text or "") for name, text in match.groupdict().items()}) for path, match in found]


def _sample(config: Config, root: Path | None, path: str, row: Row, where: str) -> tuple[RawSample, Counter[str]]:
    """The sample, and how many objects were left out by reason."""
    assert root is not None, "masks have a root"
    objects: list[tuple[str, Box]] = []
    left_out: Counter[str] = Counter()
    covered: dict[str, np.ndarray] = {}
    size = (0, 0)
    for masks in config.masks:
        for mask_HW in _masks(masks, root, row):
            if any(size) and mask_HW.shape != size:
                raise DataError("its masks differ in size")
            size = mask_HW.shape
            covered[masks.of] = covered.get(masks.of, np.zeros(size, bool)) | (mask_HW > masks.threshold)
            if masks.holds == "area":
                continue
            for box, num_px in objects_in(mask_HW, masks.holds, masks.threshold):
                if num_px >= masks.min_px:
                    objects.append((masks.of, box))
                else:
                    left_out["object of less than min_px pixels"] += 1
    boxes, _ = sorted_in(objects, size, config.classes)
    asked = [*questions(config, boxes, path, {each.of for each in config.masks if each.holds == "area"}), *_areas(config, covered, path)]
    asked += [question for each in config.questions if (question := question_of(each, row, path))]
    text = _report(config, boxes, covered)
    medium = Medium(config.medium, "0", size, modality=config.modality)
    sample = Sample(path, "", filled(config.split, row), (medium,), text, text, tuple(asked), filled(config.patient, row))
    return RawSample(sample, {"0": root / path}, where), left_out


def _masks(masks: MaskFiles, root: Path, row: Row) -> Iterator[np.ndarray]:
    """Raises DataError where there is none, and for one with colours that differ."""
    if missing := [name for name in columns_in(masks.files) if not row[name]]:
        raise DataError(f"its path has no {missing[0]}")
    pattern = masks.files
    for name in columns_in(pattern):
        pattern = pattern.replace(f"{{{name}}}", re.sub(r"([*?[])", r"[\1]", row[name]))
    if ".." in Path(pattern).parts or Path(pattern).is_absolute():
        raise DataError("the path of its masks leads out of the root; paths are relative to the root")
    found = sorted(root.glob(pattern))
    if not found:
        raise DataError(f"has no mask of {masks.of}")
    for path in found:
        pixels = decode(path.read_bytes(), "mask")
        if pixels.ndim == 3 and (np.ptp(pixels.astype(np.int32), axis=2) > 16).any():
            raise DataError(f"a mask of {masks.of} has colours; expected grey values")
        yield pixels if pixels.ndim == 2 else pixels.max(axis=2)


def _areas(config: Config, covered: dict[str, np.ndarray], key: str) -> Iterator[Question]:
    asked = config.area
    for name in (asked.classes or covered) if asked else ():
        assert asked is not None
        names = config.classes[name]
        percent = _percent(covered[name])
        yield Question(named(choose(asked.wordings, key, "area", name), names), Truth("count", str(percent), count=percent, label="percent"), f"area:{name}")


def _percent(marked_HW: Any) -> int:
    """Of the image, to the nearest whole number."""
    return int(np.floor(100 * marked_HW.mean() + 0.5))


def _report(config: Config, boxes: Any, covered: dict[str, np.ndarray]) -> str:
    """`2 polyps.` and, of what is only an area, `The vessels cover 9 percent of the image.`"""
    extents = {each.of for each in config.masks if each.holds == "area"}
    counted = config.model_copy(update={"classes": {name: names for name, names in config.classes.items() if name not in extents}})
    lines = [report(counted, boxes)] if counted.classes else []
    return " ".join([*lines, *(f"The {config.classes[name].many} cover {_percent(covered[name])} percent of the image." for name in sorted(extents))])
