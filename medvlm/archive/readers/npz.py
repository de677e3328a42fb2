"""Arrays of images and labels in one .npz, in MedMNIST's layout: `train_images`, `train_labels`, and so on for each
split."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medvlm.archive.tables.wording import choose
from medvlm.core.config import Config as Base
from medvlm.core.content import Content, Offer, name_asked
from medvlm.core.contracts import BadSample, RawSample
from medvlm.core.errors import DataError, did_you_mean
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.tasks import Choices
from medvlm.io.images import MAX_ARRAY_BYTES, name_type

NAME_ALL = "Which of the labels does this image have?"
"""Decoders do not read it."""

# Axes: N images, D H W depth, height, width, L columns of labels.


class Config(Base):
    kind: Literal["npz"]
    file: str
    """The .npz, under the root."""
    splits: dict[Literal["train", "val", "test"], str] = {"train": "train", "val": "val", "test": "test"}
    """Split -> prefix of its two arrays, PREFIX_images and PREFIX_labels."""
    medium: str
    """What the card's `media` calls the images."""
    modality: str = ""
    labels: Choices = Field(min_length=2)
    """Names of the labels 0, 1, ..."""
    which: tuple[str, ...] = ()
    """Wordings of the question for the label, if each image has one label."""
    has: tuple[str, ...] = ()
    """Wordings of the question about each single label, if an image may have any number of labels; `{label}` becomes
    its name."""
    template: str = ""
    """Of one more question, for a decoder that gives a score to each label; by default there is none."""


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample]:
    """One sample per image, by split. Raises DataError if the arrays do not match the card."""
    with _open(config, root) as arrays:
        for split, prefix in config.splits.items():
            images, labels_NL = _arrays(arrays, prefix, config)
            for number, (image, label_L) in enumerate(zip(images, labels_NL, strict=True)):
                where = f"image {number} of {prefix}"
                key = f"{prefix}/{number}"
                try:
                    names, unknown = _names(config, label_L)
                except DataError as reason:
                    yield BadSample(key, str(reason), where)
                    continue
                text = ", ".join(names)
                medium = Medium(config.medium, "0", (), modality=config.modality)
                sample = Sample(
                    key, "", split, (medium,), text, "" if unknown else text,
                    tuple(_questions(config, names, unknown, key)),
                )  # fmt: skip
                yield RawSample(sample, {"0": image}, where)


def list_content(config: Config) -> Content:
    return Content(
        tasks=name_asked(choice=config.which or config.has, labels=config.template),
        media=frozenset({config.medium}),
        has_reports=True,
        answered={config.template: Offer("labels", config.labels)} if config.template else {},
        splits=frozenset(config.splits),
    )


def count(config: Config, root: Path | None) -> int:
    with _open(config, root) as arrays:
        return sum(len(_arrays(arrays, prefix, config)[1]) for prefix in config.splits.values())


def _names(config: Config, label_L: np.ndarray) -> tuple[list[str], set[str]]:
    """The labels that an image has, and those of which that is not known (-1). Raises DataError for other numbers."""
    if not config.has:
        names = [config.labels[i] for i in label_L if 0 <= i < len(config.labels)]
        if len(names) != 1:
            raise DataError(f"its label is none of 0 to {len(config.labels) - 1}")
        return names, set()
    if other := [int(value) for value in label_L if value not in (-1, 0, 1)]:
        raise DataError(f"a label of it is {other[0]}; expected 1 for yes, 0 for no, -1 for not known")
    of_value = {value: [n for n, v in zip(config.labels, label_L, strict=True) if v == value] for value in (1, -1)}
    return of_value[1], set(of_value[-1])


def _questions(config: Config, names: list[str], unknown: set[str], key: str) -> Iterator[Question]:
    if config.which and len(names) == 1:
        yield Question(
            choose(config.which, key, "which"), make_truth("choice", names[0], choices=config.labels), "which"
        )
    for label in [each for each in config.labels if each not in unknown] if config.has else ():
        text = choose(config.has, key, label).replace("{label}", label)
        yield Question(
            text,
            make_truth("choice", "yes" if label in names else "no", choices=("yes", "no"), label=label),
            f"has:{label}",
        )
    if config.template and len(unknown) < len(config.labels):
        yield _ask_decoder(config, names, unknown)


def _ask_decoder(config: Config, names: list[str], unknown: set[str]) -> Question:
    labels = tuple(None if name in unknown else name in names for name in config.labels)
    truth = make_truth("labels", classes=config.labels, labels=labels, exclusive=not config.has)
    return Question(NAME_ALL, truth, config.template)


def _open(config: Config, root: Path | None) -> Any:
    assert root is not None, "an .npz has a root"
    path = root / config.file
    try:
        with zipfile.ZipFile(path) as members:  # check sizes before unpacking anything
            largest = max((info.file_size for info in members.infolist()), default=0)
        if largest > MAX_ARRAY_BYTES:
            raise DataError(f"{path}: an array of {largest} bytes, more than the {MAX_ARRAY_BYTES} that are read")
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file; reader.file of the card is relative to the root {root}"
        ) from None
    except (OSError, ValueError, zipfile.BadZipFile) as reason:
        raise DataError(f"{path}: not a .npz of arrays ({type(reason).__name__})") from None


def _arrays(arrays: Any, prefix: str, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [N, H, W], [N, H, W, 3] or [N, D, H, W], and labels [N, L]."""
    names = f"{prefix}_images", f"{prefix}_labels"
    if missing := [name for name in names if name not in arrays]:
        raise DataError(
            f"{config.file}: no array {missing[0]!r} ({len(arrays.files)} others"
            f"{did_you_mean(missing[0], arrays.files)})"
        )
    try:
        images, labels = (arrays[name] for name in names)
    except (ValueError, zipfile.BadZipFile, EOFError, MemoryError) as reason:
        raise DataError(f"{config.file}: {names[0]} or {names[1]} is damaged ({type(reason).__name__})") from None
    if (
        images.ndim not in (3, 4)
        or images.dtype != np.uint8
        or labels.dtype.kind not in "iu"
        or len(labels) != len(images)
    ):
        raise DataError(
            f"{config.file}: {names[0]} is {name_type(images.dtype)} {list(images.shape)} with {len(labels)} labels;"
            " expected uint8 images and as many numbers"
        )
    if config.has and labels.size != len(labels) * len(config.labels):
        raise DataError(
            f"{config.file}: {names[1]} is {list(labels.shape)}; expected a column for each of the {len(config.labels)}"
            " labels of the card"
        )
    return images, labels.reshape(len(labels), -1)
