"""Folders whose paths say what there is, without a table: images or volumes, and masks of images beside them.

Masks become boxes, counts and areas of what they mark; they are not stored themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from medvlm.archive.mask_labels import MEMBER, MaskQuestion, ask_for_mask, join_masks
from medvlm.archive.masks import MaskFiles, percent, read_masks
from medvlm.archive.media_file import FileOptions, finds_tiles, media_of
from medvlm.archive.objects import (
    AsksAboutObjects,
    Boxes,
    ObjectClass,
    ObjectQuestions,
    fill_names,
    questions,
    report,
    sort_by_class,
)
from medvlm.archive.readers._rows import TableQuestion, list_offers, make_question
from medvlm.archive.tables.columns import Row, columns_in, fill
from medvlm.archive.tables.wording import choose
from medvlm.core.contracts import Deferred, RawSample
from medvlm.core.decoder_config import Offer
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded, Medium, Question, Sample, Unit, make_truth


class Config(AsksAboutObjects, FileOptions):
    kind: Literal["folder"]
    images: str
    """Regular expression of the images' paths under the root; its named groups are what `{group}` stands for
    elsewhere."""
    medium: str
    """What the card's `media` calls the images."""
    modality: str = ""
    unit: Unit | None = None
    """What the values are; by default `display` for pictures, and what the file says or `raw` for other kinds."""
    classes: dict[str, ObjectClass] = Field(default_factory=dict)
    """What the masks mark."""
    masks: tuple[MaskFiles, ...] = ()
    area: ObjectQuestions | None = None
    """What share of the image the class covers, in whole percent."""
    patient: str = ""
    split: str = ""
    report: str = ""
    """What the path says; stands before what the masks show."""
    mask: MaskQuestion | None = None
    """Keeps the masks with the image, and asks for them; by default only what they tell of objects and areas is
    kept."""
    questions: tuple[TableQuestion, ...] = ()
    """About what the path says."""
    rename: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Group -> what stands in the path -> what to use in texts and for patients; masks are found by the path itself."""

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
        templates = [self.patient, self.split, self.report, self.modality, *(each.files for each in self.masks)]
        templates += [text for asked in self.questions for text in asked.templates]
        for name in [name for template in templates for name in columns_in(template)] + list(self.rename):
            if name not in groups:
                raise ValueError(f"{{{name}}} is no named group of `images` (found {', '.join(groups) or 'none'})")
        if self.mask and (without := sorted(set(self.mask.classes) - {each.of for each in self.masks})):
            raise ValueError(f"mask asks for {without[0]!r}, of which there are no `masks`")
        for each in self.masks:
            if each.of not in self.classes:
                raise ValueError(f"masks of {each.of!r}, expected one of the classes {', '.join(self.classes)}")
        return self


def read(config: Config, root: Path | None) -> Iterator[RawSample | Deferred]:
    """One sample an image, by path; what has to be decoded for it, masks and slides, is decoded in a child process.
    Raises DataError where no path is that of an image."""
    assert root is not None, "a folder has a root"
    images = _images(config, root)
    for number, (path, groups) in enumerate(images, 1):
        where = f"image {number} of {len(images)}"
        sample = partial(_sample, config, root, path, groups, where)
        yield Deferred(path, sample, where) if config.masks or finds_tiles(config) else sample()


def list_answered(config: Config) -> dict[str, Offer] | None:
    found = list_offers(config.questions)
    if found is not None and config.mask:
        classes = config.mask.classes or tuple(dict.fromkeys(each.of for each in config.masks))
        found[config.mask.template] = Offer("mask", classes)
    return found


def count(config: Config, root: Path | None) -> int:
    return len(_images(config, root))


def _images(config: Config, root: Path | None) -> list[tuple[str, Row]]:
    """Path under the root, and what stands at the named groups. Raises DataError where there are none."""
    assert root is not None, "a folder has a root"
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    found = [(path, match) for path in paths if (match := re.fullmatch(config.images, path))]
    if not found:
        raise DataError(f"{root}: no file matches {config.images!r}, which reader.images of the card says")
    return [(path, {name: text or "" for name, text in match.groupdict().items()}) for path, match in found]


def _sample(config: Config, root: Path, path: str, groups: Row, where: str) -> RawSample:
    """Raises DataError for masks that cannot be used."""
    marked = read_masks(config.masks, root, groups, config.nifti)
    height, width = marked.size[-2:]
    boxes = sort_by_class(marked.objects, (height, width), config.classes).boxes
    extents = {each.of for each in config.masks if each.holds == "area"}
    row = {name: config.rename.get(name, {}).get(text, text) for name, text in groups.items()}
    asked = list(questions(config, boxes, path, {name for name in extents if marked.extents[name].any()}))
    asked += _areas(config, marked.extents, path)
    asked += [question for each in config.questions if (question := make_question(each, row, path))]
    shown = _shown(config, boxes, {name: marked.extents[name] for name in sorted(extents)})
    text = " ".join(part for part in (fill(config.report, row), shown) if part)
    medium = Medium(
        config.medium,
        "0",
        marked.size if config.masks else (),
        unit=config.unit or "display",
        modality=fill(config.modality, row),
    )
    files: dict[str, Any] = {str(i): file for i, file in enumerate(media_of(root / path, config, config.unit))}
    media = tuple(replace(medium, member=member) for member in files)
    if config.mask:
        names = config.mask.classes or tuple(marked.extents)
        labels, overlapping = join_masks([marked.extents[name] for name in names])
        files[MEMBER] = Decoded(labels, affine=marked.affine)
        shown_names = [config.classes[name].many for name in names]
        asked.append(ask_for_mask(config.mask, names, shown_names, path, overlapping=overlapping))
    sample = Sample(path, "", fill(config.split, row), media, text, shown, tuple(asked), fill(config.patient, row))
    return RawSample(sample, files, where, marked.left_out)


def _areas(config: Config, extents: Mapping[str, np.ndarray], key: str) -> Iterator[Question]:
    asked = config.area
    for name in (asked.classes or extents) if asked else ():
        assert asked is not None
        covered = percent(extents[name])
        yield Question(
            fill_names(choose(asked.wordings, key, "area", name), config.classes[name]),
            make_truth("count", count=covered, label="percent"),
            f"area:{name}",
        )


def _shown(config: Config, boxes: Boxes, extents: Mapping[str, np.ndarray]) -> str:
    """`2 polyps.` and, of what is only an area, `The vessels cover 9 percent of the image.`"""
    counted = config.model_copy(
        update={"classes": {name: names for name, names in config.classes.items() if name not in extents}}
    )
    lines = [report(counted, boxes)] if counted.classes else []
    return " ".join(
        [
            *lines,
            *(
                f"The {config.classes[name].many} cover {percent(extent)} percent of the image."
                for name, extent in extents.items()
            ),
        ]
    )
