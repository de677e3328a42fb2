"""Converts a sample of a data set to the form that is stored in shards: files without metadata, sizes measured from the
pixels, hashed names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG

import numpy as np

from medvlm.archive.packing.deal import hash_name, split_of
from medvlm.archive.packing.stored_texts import check_texts, looks_misread
from medvlm.core.card import Card, Checked
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded, Medium, Question, Sample, Unit
from medvlm.core.tasks import find_task
from medvlm.core.turns import check_places
from medvlm.io.images import decode, encode_npy, encode_png, fits_png, name_type, size_of, suffix_of
from medvlm.io.masks import encode_mask, is_mask, masks_of
from medvlm.io.phi.header import add_gate
from medvlm.io.shard_index import Facts, facts_of
from medvlm.io.shards import json_of
from medvlm.io.strip import read_orientation, strip_metadata, turn_upright

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused."""
AFFINES_DIFFER_MM = 0.1
"""Tolerance for equal affines. Files store them in single precision, or as a quaternion."""
_SPLITS = ("train", "val", "test")
_SPLITS_BY_ANY_NAME = {split: split for split in _SPLITS} | {
    "training": "train",
    "trn": "train",
    "tr": "train",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
    "tst": "test",
}
NO_REPORT = "sample without a report"
COLOURS = 3
MISREAD = "sample whose text looks like UTF-8 that was read as Windows-1252 (\u00c3\u00a4 for \u00e4): stored as it is"
DTYPES = tuple(map(np.dtype, ("u1", "u2", "i2", "f4")))
"""Allowed types of the pixels that a reader's callable returns, see Decoded."""


@dataclass(frozen=True)
class Stored:
    """facts: the sample's entry in the index, with its split. images: the hash of each medium's bytes. members: name ->
    bytes, including the `json`. left_out: as in RawSample."""

    facts: Facts
    patient: str
    images: tuple[str, ...]
    members: dict[str, bytes]
    left_out: Mapping[str, int] = field(default_factory=dict)


def make_stored(raw: RawSample, card: Card) -> Stored:
    """The sample as it is written to a shard. Raises DataError for a sample that cannot be used; its message has no
    names or values of the data set."""
    sample, files = prepare_sample(raw, card)
    images = tuple(hash_image(files[m.member]) for m in sample.media)
    sample = replace(sample, split=_choose_split(raw.sample, images, card))
    has_no_report = getattr(card.reader, "report", "") and not sample.report
    left_out = {**raw.left_out, **({NO_REPORT: 1} if has_no_report else {})}
    left_out |= {MISREAD: 1} if looks_misread(raw.sample) else {}
    return Stored(facts_of(sample), sample.patient, images, {"json": json_of(sample), **files}, left_out)


def hash_image(data: bytes) -> str:
    """By this hash of its stored bytes an image is assigned to a split, for a card whose `splits.by` is `image`."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def prepare_sample(raw: RawSample, card: Card) -> tuple[Sample, dict[str, bytes]]:
    """The sample without its split, and its members. Raises DataError for a bad sample; its message has no names or
    values of the data set."""
    sample = raw.sample
    media: list[Medium] = []
    files: dict[str, bytes] = {}
    for medium in sample.media:
        if medium.kind not in card.media:
            raise DataError(f"medium of kind {medium.kind!r}, but the card's media are {', '.join(card.media)}")
    for medium in sample.media:
        stem = medium.member.partition(".")[0]
        if not (stem.isascii() and stem.isalnum()):
            raise DataError("the name of a medium must consist of letters and digits, such as 0 or 0.png")
        label = _name_medium(len(media), len(sample.media))
        suffix, data, found = convert_file(raw.files[medium.member], label, card.phi.checked)
        name = f"{stem}.{suffix}"
        described = (
            _add_file_facts(replace(medium, member=name), found)
            if isinstance(found, Decoded)
            else replace(medium, member=name)
        )
        size = _measure_size(found.pixels, described.unit) if isinstance(found, Decoded) else found
        if not media:
            _refuse_turned(raw, size)
        if medium.size and tuple(medium.size) != size:
            raise DataError(f"annotated for {_format_size(medium.size)} pixels, but its image has {_format_size(size)}")
        files[name] = data
        media.append(replace(described, size=size))
    masks = {name: _store_mask(name, raw, media, card) for name in raw.files if is_mask(name)}
    files |= dict(masks.values())
    renamed = {name: member for name, (member, _) in masks.items()}
    questions = tuple(_settle(replace(q, truth=q.truth.rename(renamed)), media) for q in sample.questions)
    check_texts(raw, card)
    patient = hash_name(sample.patient, card.naming_salt, "patient") if sample.patient else ""
    key = hash_name(f"{card.name}/{sample.key}", card.naming_salt, "key")
    stored = replace(sample, key=key, source=card.name, media=tuple(media), patient=patient, questions=questions)
    _check_truths(stored, files)
    return stored, files


def convert_file(
    value: Path | bytes | np.ndarray | Callable[..., Decoded], member: str, checked: Collection[Checked] = ()
) -> tuple[str, bytes, Decoded | tuple[int, ...]]:
    """Suffix, bytes, and the decoded content, or only its size for a picture. PNG and JPEG keep their compressed
    pixels, unless EXIF turns the image: then it is stored upright, as PNG. Other pictures (WebP, BMP, GIF, JPEG 2000)
    become PNG.

    checked: the parts of headers that people have checked, from the card (phi.checked).
    """
    if callable(value):
        found = add_gate(value, checked)()
        if found.pixels.dtype not in DTYPES:
            kind, kinds = name_type(found.pixels.dtype), ", ".join(map(str, DTYPES))
            raise DataError(f"{member}: pixels of type {kind}; expected one of {kinds}")
        return *_encode_array(found.pixels, member), found
    if isinstance(value, np.ndarray):
        return *_encode_array(value, member), Decoded(value)
    data = value if isinstance(value, bytes) else _read_bytes(value, member)
    suffix = suffix_of(data)
    if suffix in ("png", "jpg"):
        stripped = strip_metadata(data, member)
        size, turn = size_of(stripped, member), read_orientation(data)
        if turn == 1:
            return suffix, stripped, size
        pixels = turn_upright(decode(stripped, member), turn)
        return "png", encode_png(pixels), Decoded(pixels)
    array = decode(data, member)
    array = _drop_channel(array) if suffix == "npy" else turn_upright(array, read_orientation(data))
    # Encoded again, so that metadata or the padding of a .npy header cannot hide anything.
    stored = ("npy", _encode_finite_npy(array, member)) if suffix == "npy" else _encode_array(array, member)
    return *stored, Decoded(array)


def _name_medium(number: int, of: int) -> str:
    """The name of a medium in messages. Users never see the name of its member."""
    return "its image" if of == 1 else f"its image {number + 1} of {of}"


def _refuse_turned(raw: RawSample, size: tuple[int, ...]) -> None:
    """Raises DataError for boxes and masks of a picture that EXIF turns, unless their size (H, W) shows that they
    belong to the upright picture. Otherwise it is unknown whether they were drawn on the picture as stored or as
    shown."""
    medium, value = raw.sample.media[0], raw.files[raw.sample.media[0].member]
    truths = [question.truth for question in raw.sample.questions]
    has_mask, has_boxes = any(map(is_mask, raw.files)), any(find_task(t.task).has_coordinates(t) for t in truths)
    if not isinstance(value, Path | bytes) or not (has_mask or has_boxes):
        return
    turn = read_orientation(value if isinstance(value, bytes) else _read_bytes(value, medium.member))
    is_known = turn > 4 and size[0] != size[1] and (has_mask or medium.size)  # the size is compared elsewhere
    if turn != 1 and not is_known:
        raise DataError(
            "its EXIF turns or mirrors its image, so it is unknown whether its boxes or masks belong to the image as"
            " stored or as shown; turn the pixels (e.g. mogrify -auto-orient), and check the annotations"
        )


def _store_mask(name: str, raw: RawSample, media: Sequence[Medium], card: Card) -> tuple[str, bytes]:
    """Member and bytes. name: from the reader, e.g. `0.mask`. Raises DataError for a mask that does not match its
    medium pixel by pixel."""
    number = next((i for i, medium in enumerate(raw.sample.media) if masks_of(medium.member, [name])), None)
    if number is None:
        raise DataError(f"{name}: a mask of a medium that the sample does not have")
    medium, value = media[number], raw.files[name]
    found: Decoded = add_gate(value, card.phi.checked)() if callable(value) else value
    if medium.size not in (found.pixels.shape, found.pixels.shape[1:]):
        raise DataError(
            f"{name}: a mask of {_format_size(found.pixels.shape)} pixels, but its image has"
            f" {_format_size(medium.size)}"
        )
    if found.affine and medium.affine and not np.allclose(found.affine, medium.affine, atol=AFFINES_DIFFER_MM):
        raise DataError(f"{name}: its affine differs from that of its image; resample the mask onto the image")
    suffix, data = encode_mask(found.pixels, name)
    return f"{name}.{suffix}", data


def _encode_array(pixels: np.ndarray, member: str) -> tuple[str, bytes]:
    return ("png", encode_png(pixels)) if fits_png(pixels) else ("npy", _encode_finite_npy(pixels, member))


def _add_file_facts(medium: Medium, found: Decoded) -> Medium:
    """The medium, with spacing, affine, modality and unit from the file unless the card sets them."""
    return replace(
        medium, spacing_mm=medium.spacing_mm or found.spacing_mm, affine=medium.affine or found.affine,
        modality=medium.modality or found.modality, unit=found.unit if medium.unit == "display" else medium.unit,
    )  # fmt: skip


def _drop_channel(array: np.ndarray) -> np.ndarray:
    """A volume without a first axis of one channel, 1 x D x H x W, as tensors of some data sets have it."""
    return array[0] if array.ndim == 4 and array.shape[0] == 1 and array.shape[-1] != COLOURS else array


def _measure_size(pixels: np.ndarray, unit: Unit) -> tuple[int, ...]:
    """(H, W) or (D, H, W), without the axis of colours. That is a last axis of 3 in 8-bit pixels, and in pixels for
    display. Raises DataError for pixels of other axes."""
    if not 2 <= pixels.ndim <= 4 or (pixels.ndim == 4 and pixels.shape[-1] != COLOURS):
        raise DataError(
            f"an array of shape {pixels.shape}; expected (height, width) or (depth, height, width), and colours in a"
            " last axis of 3"
        )
    colour = pixels.ndim == 4 or (
        pixels.ndim == 3 and pixels.shape[-1] == 3 and (fits_png(pixels) or unit == "display")
    )
    return pixels.shape[:-1] if colour else pixels.shape


def _choose_split(sample: Sample, images: tuple[str, ...], card: Card) -> str:
    """Uses the public salt, so that a new secret does not move patients to another split. Raises DataError for a sample
    without the value that the card splits by."""
    by = card.splits.by
    if by == "patient" and not sample.patient:
        raise DataError("has no patient, but the card splits by patient (splits.by, reader.patient)")
    if by == "column" and not (sample.split.isascii() and sample.split.isalnum()):
        raise DataError("has no split (letters and digits), but the card splits by a column (splits.by, reader.split)")
    if by == "column":
        if sample.split not in _SPLITS and (meant := _SPLITS_BY_ANY_NAME.get(sample.split.lower())):
            raise DataError(
                f"its split is another word for {meant}, which recipes would not find; rename it in the card"
                f" (reader.rename: {{COLUMN: {{{sample.split}: {meant}}}}})"
            )
        return sample.split
    if by == "patient":
        return split_of(hash_name(sample.patient, card.splits.salt, "patient"), card.splits)
    # By content, so that the same image under two names stays in one split.
    return split_of(
        images[0] if images else hash_name(f"{card.name}/{sample.key}", card.splits.salt, "key"), card.splits
    )


def _read_bytes(path: Path, member: str) -> bytes:
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise DataError(f"{member}: its path is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{member}: its file is larger than {MAX_FILE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as reason:
        raise DataError(f"{member}: its file cannot be read ({type(reason).__name__})") from None


def _encode_finite_npy(array: np.ndarray, member: str) -> bytes:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{member}: has values that are not finite")
    return encode_npy(array)


def _settle(question: Question, media: Sequence[Medium]) -> Question:
    try:
        settled = find_task(question.truth.task).settle(question.truth, media)
    except DataError as reason:
        raise DataError(f"{question.template}: {reason}") from None
    return question if settled is question.truth else replace(question, truth=settled)


def _check_truths(sample: Sample, files: Collection[str]) -> None:
    check_places(sample)
    for question in sample.questions:
        try:
            if absent := [member for member in question.truth.members if member not in files]:
                raise DataError(f"there is no member {absent[0]}")
            find_task(question.truth.task).check(question.truth, sample.media)
        except DataError as reason:
            raise DataError(f"{question.template}: {reason}") from None


def _format_size(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, reversed(size)))
