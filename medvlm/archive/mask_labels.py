"""Masks that are kept with their medium: what a file of values, or several masks, become as labels of pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from medvlm.archive.media_file import FileOptions, media_of
from medvlm.archive.tables.records import document, without_key
from medvlm.archive.tables.wording import choose
from medvlm.core.config import Config
from medvlm.core.errors import DataError, did_you_mean
from medvlm.core.sample import Decoded, Question, make_truth
from medvlm.io.images import decode
from medvlm.io.masks import require_growing_palette
from medvlm.io.strip import read_orientation, turn_upright

MEMBER = "0.mask"
"""The mask of the first medium, as readers name it."""
SECOND = f"{MEMBER}.second"
"""That of a second reader."""
MAX_CLASSES = 254
UNMARKED = 255
UNMARKED_OBJECT = 65535
"""The label of pixels of which nobody says what they show; and the same where labels number objects."""


class AsksForMask(Config):
    wordings: tuple[str, ...] = Field(("Which pixels show {classes}?",), min_length=1)
    """`{classes}` becomes the names of the classes; each image gets one of them."""
    template: str = "mask"
    """What the question is called: a decoder of this name, or that `answers` it, is trained on the masks."""
    objects: bool = Field(False, exclude_if=lambda objects: not objects)
    """Also keeps which object each pixel is of, for measures of objects. In a `mask_file`, an object is what touches at
    a face, an edge or a corner."""


class MaskQuestion(AsksForMask):
    """Keeps the pixels of masks, and asks for them; a decoder answers."""

    classes: tuple[str, ...] = ()
    """In the order of their labels; by default all that there are masks of."""


class MaskOptions(AsksForMask, FileOptions):
    """A file whose values mark the pixels of a medium."""

    values: dict[str, tuple[int, ...]] = Field(min_length=1, max_length=MAX_CLASSES)
    """Class -> the values that mean it, e.g. {liver: [1], tumor: [2, 3]}. 0 means none of them."""
    threshold: int | None = None
    """Of a single class: all values above it mean it, e.g. 127 for masks that went through JPEG; `values` is then
    {polyp: []}."""
    unmarked: tuple[int, ...] = ()
    """Values of pixels of which nobody says what they show: they count for nothing in training and evaluation."""

    @field_validator("values", mode="before")
    @classmethod
    def _one_value(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: [found] if isinstance(found, int) else found for name, found in values.items()}

    @model_validator(mode="after")
    def _means_one_thing(self) -> MaskOptions:
        every = [value for found in self.values.values() for value in found] + list(self.unmarked)
        if len(set(every)) < len(every) or 0 in every:
            raise ValueError("expected each value once, and not 0, which means none of the classes")
        if self.threshold is not None and (len(self.values) > 1 or every):
            raise ValueError("`threshold` marks a single class, named without values, e.g. values: {polyp: []}")
        if self.threshold is None and (empty := [name for name, found in self.values.items() if not found]):
            raise ValueError(f"{empty[0]} has no value; expected the numbers that mean it, or a `threshold`")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order of their labels."""
        return tuple(self.values)


class TableMask(MaskOptions):
    file: str
    """Path under the root, as that of a medium. Where it is missing in a row, no mask is asked for."""
    values: dict[str, tuple[int, ...]] = Field(default_factory=dict, max_length=MAX_CLASSES)
    """As above; in its place `planes` for classes that overlap."""
    planes: tuple[str, ...] = Field((), exclude_if=lambda planes: not planes)
    """The classes of a .npy array of 0 and 1, [planes, height, width], in the order of its planes; or, with `numbered`,
    those that are asked for."""
    numbered: str = Field("", exclude_if=lambda numbered: not numbered)
    """A file of JSON that says which plane is of which class, {"0": "heart", ...}, under the root; with its key, such
    as `paxray.json#label_dict`."""

    @model_validator(mode="after")
    def _has_one_form(self) -> TableMask:
        if bool(self.values) == bool(self.planes):
            raise ValueError("expected either `values`, of a mask of numbers, or `planes`, of one for each class")
        if self.planes and (self.objects or self.unmarked or self.threshold is not None):
            raise ValueError("`planes` mark nothing but their classes: leave out objects, unmarked and threshold")
        if self.numbered and not self.planes:
            raise ValueError("`numbered` is for `planes`")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return self.planes or tuple(self.values)


def ask_for_mask(asked: AsksForMask, classes: Sequence[str], names: Sequence[str], key: str, **more: Any) -> Question:
    """classes: as decoders name them. names: as people do. more: fields of the truth."""
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    text = choose(asked.wordings, key, asked.template).replace("{classes}", listed)
    return Question(text, make_truth("mask", classes=tuple(classes), member=MEMBER, **more), asked.template)


def ask_for_labels(asked: MaskOptions, key: str) -> Question:
    """What load_labels() gives."""
    unmarked = UNMARKED_OBJECT if asked.objects else UNMARKED
    told = {"unmarked": unmarked if asked.unmarked else None, "objects": asked.objects}
    if isinstance(asked, TableMask) and asked.planes:
        told["overlapping"] = True
    return ask_for_mask(asked, asked.names, asked.names, key, **told)


def find_loader(path: Path, asked: TableMask, root: Path) -> Callable[..., Decoded]:
    """What loads the mask file of a table or a folder. Raises DataError for a class that no plane is of."""
    if not asked.planes:
        return partial(load_labels, path, asked)
    return partial(load_planes, path, _number_planes(root, asked.planes, asked.numbered))


@lru_cache(maxsize=8)
def _number_planes(root: Path, planes: tuple[str, ...], numbered: str) -> tuple[int, ...]:
    if not numbered:
        return tuple(range(len(planes)))
    path, key = without_key(root / numbered)
    told = document(path)
    told = told.get(key) if key and isinstance(told, dict) else told
    if not isinstance(told, dict):
        raise DataError(f"{path}: expected an object of the names of planes{f' under {key!r}' if key else ''}")
    number_of = {str(name): int(number) for number, name in told.items() if str(number).isdigit()}
    if absent := [name for name in planes if name not in number_of]:
        near = did_you_mean(absent[0], number_of)
        raise DataError(f"{path}: no plane is of {absent[0]!r}{near}, which the card asks for")
    return tuple(number_of[name] for name in planes)


def load_planes(path: Path, numbers: Sequence[int]) -> Decoded:
    """The planes of these numbers as 0 and 1, [K, H, W]. Raises DataError for an array of another form."""
    found = decode(path.read_bytes(), "its mask")
    if found.ndim != 3 or found.dtype.kind not in "biu":
        raise DataError(f"its mask is {found.dtype} of shape {found.shape}; expected a plane of 0 and 1 for each class")
    if max(numbers) >= len(found):
        raise DataError(f"its mask has {len(found)} planes, and the card asks for number {max(numbers)}")
    return Decoded((found[list(numbers)] > 0).astype(np.uint8))


def join_masks(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, bool]:
    """bool masks of one size as a map of labels, 1 for the first; where they overlap, as a plane for each and True."""
    planes = np.stack(masks)
    if (planes.sum(0) > 1).any():
        return planes, True
    return (planes * np.arange(1, len(planes) + 1).reshape(-1, *[1] * (planes.ndim - 1))).sum(0), False


def load_labels(path: Path, options: MaskOptions, gate: Callable[..., None] | None = None) -> Decoded:
    """The labels of a mask file, of any kind that a medium can be: 1 for the first class of `values`, 0 for none,
    UNMARKED. gate: what its header must pass. Raises DataError for colours, and for a value that the card does not
    name."""
    (found,) = media_of(path, options, "raw")
    if isinstance(found, Path):
        decoded = _read_picture(found)
    else:
        decoded = found(gate=gate) if "gate" in signature(found).parameters else found()
    labels = _label(decoded.pixels, options)
    if options.objects:
        labels = number_objects(labels, len(options.values))
    return Decoded(labels, decoded.spacing_mm, "raw", "", decoded.affine)


def _label(values: np.ndarray, options: MaskOptions) -> np.ndarray:
    if options.threshold is not None:
        return (values > options.threshold).astype(np.uint8)
    labels = np.zeros(values.shape, np.uint8)
    meaning: Mapping[int, tuple[int, ...]] = dict(enumerate(options.values.values(), 1)) | {UNMARKED: options.unmarked}
    for number, named in meaning.items():
        labels[np.isin(values, named)] = number
    if (unknown := (labels == 0) & (values != 0)).any():
        raise DataError(
            f"its mask has the value {values[unknown][0]:g}, which the card does not name; name it in `values` or"
            " `unmarked`"
        )
    return labels


def number_objects(labels: np.ndarray, classes: int) -> np.ndarray:
    """The connected components of each class, as task `mask` numbers objects."""
    from scipy.ndimage import generate_binary_structure, label

    found = np.where(labels == UNMARKED, UNMARKED_OBJECT, 0)
    for number in range(classes):
        components = label(labels == number + 1, generate_binary_structure(labels.ndim, labels.ndim))[0]
        found = np.where(components > 0, 1 + number + classes * (components.astype(np.int64) - 1), found)
    return found


def _read_picture(path: Path) -> Decoded:
    """Upright, as the picture that it belongs to is stored."""
    data = path.read_bytes()
    pixels = decode(data, "its mask")
    if pixels.ndim == 3:
        if (np.ptp(pixels.astype(np.int32), axis=2) > 16).any():  # JPEG may tint grey a little
            raise DataError("its mask has colours; expected grey values")
        pixels = pixels.max(axis=2)
    require_growing_palette(data, pixels)
    return Decoded(turn_upright(pixels, read_orientation(data)))
