"""Reads folders without a table, whose paths carry the information: images or volumes, and masks of images.

Masks are converted to boxes, counts and areas of the objects that they mark. They are stored only with `mask`. With
`patches`, an image becomes patches that show a class of the masks or none of it.
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

from medvlm.archive.crops import Patches, make_patch
from medvlm.archive.mask_labels import (
    MEMBER,
    SECOND,
    MaskQuestion,
    TableMask,
    ask_for_labels,
    ask_for_mask,
    find_loader,
    join_masks,
)
from medvlm.archive.masks import MaskFiles, percent, read_masks
from medvlm.archive.media_file import FileOptions, finds_tiles, media_of
from medvlm.archive.objects import (
    AsksAboutObjects,
    Boxes,
    ObjectClass,
    ObjectQuestions,
    fill_names,
    list_object_offers,
    list_object_tasks,
    questions,
    report,
    sort_by_class,
)
from medvlm.archive.readers._rows import list_splits_of
from medvlm.archive.tables.columns import Row, columns_in, file_in, fill
from medvlm.archive.tables.questions import TableQuestion, list_offers, list_tasks_of, make_question
from medvlm.archive.tables.wording import choose
from medvlm.core.content import Content, Offer, name_asked
from medvlm.core.contracts import Deferred, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded, Medium, Question, Sample, Unit, make_truth


class Config(AsksAboutObjects, FileOptions):
    kind: Literal["folder"]
    images: str
    """Regular expression for the images' paths under the root. Other settings can use its named groups as `{group}`."""
    medium: str
    """The kind of media of the images, from the card's `media`."""
    modality: str = ""
    unit: Unit | None = None
    """Unit of the pixel values; by default `display` for pictures, and for other kinds the file's unit or `raw`."""
    classes: dict[str, ObjectClass] = Field(default_factory=dict)
    """The classes of objects that the masks mark."""
    masks: tuple[MaskFiles, ...] = ()
    area: ObjectQuestions | None = None
    """Asks which share of the image a class covers, in whole percent."""
    patient: str = ""
    split: str = ""
    report: str = ""
    """Text from the path; comes before the sentences about the masks."""
    mask: MaskQuestion | None = None
    """Stores the masks with the image, and asks for them; by default only boxes, counts and areas are kept."""
    mask_file: TableMask | None = None
    """In place of `masks`, a file whose values mark several classes, or the voxels of a volume."""
    patches: Patches | None = None
    """In place of the images, patches of them."""
    questions: tuple[TableQuestion, ...] = ()
    """Questions about the groups of the path."""
    rename: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Group -> text in the path -> replacement in texts and patients. Masks are found by the original path."""

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
        templates = [self.patient, self.split, self.report, self.modality]
        templates += [pattern for each in self.masks for pattern in (each.files, each.second)]
        templates += [text for asked in self.questions for text in asked.templates]
        templates += [self.mask_file.file] if self.mask_file else []
        for name in [name for template in templates for name in columns_in(template)] + list(self.rename):
            if name not in groups:
                raise ValueError(f"{{{name}}} is not a named group of `images` (found {', '.join(groups) or 'none'})")
        if self.mask and (without := sorted(set(self.mask.classes) - {each.of for each in self.masks})):
            raise ValueError(f"mask asks for {without[0]!r}, which has no entry in `masks`")
        if self.mask and self.mask.objects and (bare := [m.of for m in self.masks if m.holds == "area"]):
            raise ValueError(
                f"mask has `objects`, but masks of {bare[0]!r} are an area; say what they hold: object, ..."
            )
        if self.mask_file and self.mask:
            raise ValueError("has both `mask` and `mask_file`; an image has one mask")
        for each in self.masks:
            if each.of not in self.classes:
                raise ValueError(f"masks of {each.of!r}, expected one of the classes {', '.join(self.classes)}")
        return self

    @model_validator(mode="after")
    def _asks_about_patches_alone(self) -> Config:
        if self.patches is None:
            return self
        others = (
            self.list_asked(),
            self.detect,
            self.area,
            self.mask,
            self.mask_file,
            self.questions,
            self.report,
        )
        if any(others):
            raise ValueError(
                "`patches` asks each patch for its class; leave out count, boxes, presence, points, detect, area,"
                " mask, mask_file, questions and report"
            )
        if self.patches.of not in {each.of for each in self.masks}:
            raise ValueError(f"patches of {self.patches.of!r}, which has no entry in `masks`")
        return self


def read(config: Config, root: Path | None) -> Iterator[RawSample | Deferred]:
    """One sample per image, sorted by path. Masks and slides, which have to be decoded, are read in a child process.
    Raises DataError if no path matches `images`."""
    assert root is not None, "a folder has a root"
    images = _find_images(config, root)
    for number, (path, groups) in enumerate(images, 1):
        where = f"image {number} of {len(images)}"
        if config.patches:
            yield from _list_patches(config, config.patches, root, path, groups, where)
            continue
        sample = partial(_make_sample, config, root, path, groups, where)
        yield Deferred(path, sample, where) if config.masks or finds_tiles(config) else sample()


def _list_patches(config: Config, asked: Patches, root: Path, path: str, groups: Row, where: str) -> Iterator[Deferred]:
    masks = tuple(each for each in config.masks if each.of == asked.of)
    row = _rename(config, groups)
    told = config.medium, fill(config.modality, row), fill(config.patient, row), fill(config.split, row)
    for number in range(2 * asked.each):
        made = partial(make_patch, asked, masks, root, path, groups, number, told)
        yield Deferred(f"{path}-{number}", made, f"patch {number} of {where}")


def _rename(config: Config, groups: Row) -> Row:
    return {name: config.rename.get(name, {}).get(text, text) for name, text in groups.items()}


def list_content(config: Config) -> Content:
    if config.patches:
        return Content(
            tasks=name_asked(labels=config.patches),
            media=frozenset({config.medium}),
            has_reports=True,
            answered={config.patches.template: Offer("labels", config.patches.answers)},
            splits=list_splits_of(config.split),
        )
    answered = list_offers(config.questions)
    if answered is not None and config.mask:
        classes = config.mask.classes or tuple(dict.fromkeys(each.of for each in config.masks))
        answered[config.mask.template] = Offer("mask", classes)
    if answered is not None:
        answered |= list_object_offers(config)
    if answered is not None and config.mask_file:
        answered[config.mask_file.template] = Offer("mask", config.mask_file.names)
    return Content(
        tasks=list_tasks_of(config.questions)
        | list_object_tasks(config)
        | name_asked(count=config.area, mask=config.mask or config.mask_file),
        media=frozenset({config.medium}),
        has_reports=bool(config.report or config.classes),
        answered=answered,
        splits=list_splits_of(config.split),
        has_steps=any(asked.steps for asked in config.questions),
    )


def count(config: Config, root: Path | None) -> int:
    return len(_find_images(config, root)) * (2 * config.patches.each if config.patches else 1)


def _find_images(config: Config, root: Path | None) -> list[tuple[str, Row]]:
    """Path under the root and its named groups, for every image. Raises DataError if there are none."""
    assert root is not None, "a folder has a root"
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    found = [(path, match) for path in paths if (match := re.fullmatch(config.images, path))]
    if not found:
        raise DataError(f"{root}: no file matches {config.images!r}; check reader.images in the card")
    return [(path, {name: text or "" for name, text in match.groupdict().items()}) for path, match in found]


def _make_sample(config: Config, root: Path, path: str, groups: Row, where: str) -> RawSample:
    """Raises DataError for masks that cannot be used."""
    marked = read_masks(config.masks, root, groups, config.nifti)
    height, width = marked.size[-2:]
    boxes = sort_by_class(marked.objects, (height, width), config.classes, may_coincide=True).boxes
    extents = {each.of for each in config.masks if each.holds == "area"}
    row = _rename(config, groups)
    asked = list(questions(config, boxes, path, {name for name in extents if marked.extents[name].any()}))
    asked += _ask_areas(config, marked.extents, path)
    asked += [question for each in config.questions if (question := make_question(each, row, path))]
    shown = _describe_objects(config, boxes, {name: marked.extents[name] for name in sorted(extents)})
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
        objects = config.mask.objects
        if objects:
            labels, overlapping = marked.list_labels(names), False
        files[MEMBER] = Decoded(labels, affine=marked.affine)
        second = SECOND if all(name in marked.second for name in names) else ""
        if second:
            files[SECOND] = Decoded(join_masks([marked.second[name] for name in names])[0], affine=marked.affine)
        told = {"overlapping": overlapping, "objects": objects, "second": second}
        asked.append(ask_for_mask(config.mask, names, [config.classes[name].many for name in names], path, **told))
    if config.mask_file:
        mask = file_in(root, fill(config.mask_file.file, groups))
        files[MEMBER] = find_loader(mask, config.mask_file, root)
        asked.append(ask_for_labels(config.mask_file, path))
    sample = Sample(path, "", fill(config.split, row), media, text, shown, tuple(asked), fill(config.patient, row))
    return RawSample(sample, files, where, marked.left_out)


def _ask_areas(config: Config, extents: Mapping[str, np.ndarray], key: str) -> Iterator[Question]:
    asked = config.area
    for name in (asked.classes or extents) if asked else ():
        assert asked is not None
        covered = percent(extents[name])
        yield Question(
            fill_names(choose(asked.wordings, key, "area", name), config.classes[name]),
            make_truth("count", count=covered, label="percent"),
            f"area:{name}",
        )


def _describe_objects(config: Config, boxes: Boxes, extents: Mapping[str, np.ndarray]) -> str:
    """`2 polyps.` for objects, and `The vessels cover 9 percent of the image.` for classes that are only areas."""
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
