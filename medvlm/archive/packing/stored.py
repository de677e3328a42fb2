"""One sample of an archive in the form that goes into a shard: bytes without metadata, sizes from the pixels, names by
hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

import numpy as np

from medvlm.archive.packing.deal import hash_name, split_of
from medvlm.core.card import Card, Checked
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded, Medium, Sample, Truth, Unit
from medvlm.core.tasks import find_task
from medvlm.io.images import decode, encode_npy, encode_png, fits_png, size_of, suffix_of
from medvlm.io.masks import encode_mask, is_mask, masks_of
from medvlm.io.phi import text as phi
from medvlm.io.phi.header import add_gate
from medvlm.io.shard_index import Facts, facts_of
from medvlm.io.shards import json_of
from medvlm.io.strip import read_orientation, strip_metadata, turn_upright

MAX_FILE_BYTES = 1 << 30
"""A larger file is not read."""
AFFINES_DIFFER_MM = 0.1
"""Of the entries of two affines that say the same: files hold them in single precision, or as a quaternion."""
NO_REPORT = "sample without a report"
DTYPES = tuple(map(np.dtype, ("u1", "u2", "i2", "f4")))
"""What a callable of a reader may give, see Decoded."""


@dataclass(frozen=True)
class Stored:
    """facts: what the index says of it, with its split. images: the hash of each medium's bytes. members: name ->
    bytes, with the `json`. left_out: as in RawSample."""

    facts: Facts
    patient: str
    images: tuple[str, ...]
    members: dict[str, bytes]
    left_out: Mapping[str, int] = field(default_factory=dict)


def stored(raw: RawSample, card: Card) -> Stored:
    """Raises DataError, without names or values of the archive, for a sample that cannot be used."""
    sample, files = prepared(raw, card)
    images = tuple(hashlib.blake2b(files[m.member], digest_size=8).hexdigest() for m in sample.media)
    sample = replace(sample, split=_split(raw.sample, images, card))
    left_out = {**raw.left_out, **({NO_REPORT: 1} if getattr(card.reader, "report", "") and not sample.report else {})}
    return Stored(facts_of(sample), sample.patient, images, {"json": json_of(sample), **files}, left_out)


def prepared(raw: RawSample, card: Card) -> tuple[Sample, dict[str, bytes]]:
    """The sample but for its split, and its members. Raises DataError, without names or values of the archive, for a
    bad one."""
    sample = raw.sample
    media: list[Medium] = []
    files: dict[str, bytes] = {}
    for medium in sample.media:
        if medium.kind not in card.media:
            raise DataError(f"medium of kind {medium.kind!r}, the card's media are {', '.join(card.media)}")
    for medium in sample.media:
        stem = medium.member.partition(".")[0]
        if not (stem.isascii() and stem.isalnum()):
            raise DataError("a medium whose name is not of letters and digits, as 0 or 0.png")
        label = _label(len(media), len(sample.media))
        suffix, data, found = to_store(raw.files[medium.member], label, card.phi.checked)
        name = f"{stem}.{suffix}"
        described = (
            _described(replace(medium, member=name), found)
            if isinstance(found, Decoded)
            else replace(medium, member=name)
        )
        size = _size(found.pixels, described.unit) if isinstance(found, Decoded) else found
        if not media:
            _refuse_turned(raw, size)
        if medium.size and tuple(medium.size) != size:
            raise DataError(f"annotated for {_by(medium.size)} pixels, its image has {_by(size)}")
        files[name] = data
        media.append(replace(described, size=size))
    masks = {name: _store_mask(name, raw, media, card) for name in raw.files if is_mask(name)}
    files |= dict(masks.values())
    renamed = {name: member for name, (member, _) in masks.items()}
    questions = tuple(replace(q, truth=q.truth.rename(renamed)) for q in sample.questions)
    _check_texts(sample, card)
    patient = hash_name(sample.patient, card.naming_salt, "patient") if sample.patient else ""
    key = hash_name(f"{card.name}/{sample.key}", card.naming_salt, "key")
    stored = replace(sample, key=key, source=card.name, media=tuple(media), patient=patient, questions=questions)
    _check_truths(stored, files)
    return stored, files


def to_store(
    value: Path | bytes | np.ndarray | Callable[..., Decoded], member: str, checked: Collection[Checked] = ()
) -> tuple[str, bytes, Decoded | tuple[int, ...]]:
    """Suffix, bytes and what they hold, of a picture its size alone. PNG and JPEG keep their compressed pixels, unless
    EXIF turns the image: then it is stored upright, as PNG. Other pictures (WebP, BMP, GIF, JPEG 2000) become PNG.

    checked: what the card says that people have looked at in headers (phi.checked).
    """
    if callable(value):
        found = add_gate(value, checked)()
        if found.pixels.dtype not in DTYPES:
            raise DataError(
                f"{member}: pixels of type {found.pixels.dtype}; expected one of {', '.join(map(str, DTYPES))}"
            )
        return *_as_array(found.pixels, member), found
    if isinstance(value, np.ndarray):
        return *_as_array(value, member), Decoded(value)
    data = value if isinstance(value, bytes) else _bytes_of(value, member)
    suffix = suffix_of(data)
    if suffix in ("png", "jpg"):
        stripped = strip_metadata(data, member)
        size, turn = size_of(stripped, member), read_orientation(data)
        if turn == 1:
            return suffix, stripped, size
        pixels = turn_upright(decode(stripped, member), turn)
        return "png", encode_png(pixels), Decoded(pixels)
    array = decode(data, member)
    array = array if suffix == "npy" else turn_upright(array, read_orientation(data))
    # Written anew: nothing hides in metadata, or in the padding of the header of a .npy.
    return *(("npy", _finite_npy(array, member)) if suffix == "npy" else _as_array(array, member)), Decoded(array)


def _label(number: int, of: int) -> str:
    """What a medium is called in messages: a user never sees the name of its member."""
    return "its image" if of == 1 else f"its image {number + 1} of {of}"


def _refuse_turned(raw: RawSample, size: tuple[int, ...]) -> None:
    """Raises DataError for boxes and masks of a picture that EXIF turns, unless they say the size (H, W) that it has
    upright and not as stored: whether they were drawn on the one or the other is not known."""
    medium, value = raw.sample.media[0], raw.files[raw.sample.media[0].member]
    truths = [question.truth for question in raw.sample.questions]
    has_mask, has_boxes = any(map(is_mask, raw.files)), any(find_task(t.task).has_coordinates(t) for t in truths)
    if not isinstance(value, Path | bytes) or not (has_mask or has_boxes):
        return
    turn = read_orientation(value if isinstance(value, bytes) else _bytes_of(value, medium.member))
    is_told = turn > 4 and size[0] != size[1] and (has_mask or medium.size)  # the size is compared elsewhere
    if turn != 1 and not is_told:
        raise DataError(
            "its EXIF turns or mirrors its image, and whether its boxes or masks lie on the image as stored or as shown"
            " is not known; turn the pixels (e.g. mogrify -auto-orient), and check the annotations"
        )


def _store_mask(name: str, raw: RawSample, media: Sequence[Medium], card: Card) -> tuple[str, bytes]:
    """Member and bytes. name: as the reader has it, `0.mask`. Raises DataError for a mask that does not lie on its
    medium pixel by pixel."""
    number = next((i for i, medium in enumerate(raw.sample.media) if masks_of(medium.member, [name])), None)
    if number is None:
        raise DataError(f"{name}: a mask of a medium that the sample does not have")
    medium, value = media[number], raw.files[name]
    found: Decoded = add_gate(value, card.phi.checked)() if callable(value) else value
    if medium.size not in (found.pixels.shape, found.pixels.shape[1:]):
        raise DataError(f"{name}: a mask of {_by(found.pixels.shape)} pixels, its image has {_by(medium.size)}")
    if found.affine and medium.affine and not np.allclose(found.affine, medium.affine, atol=AFFINES_DIFFER_MM):
        raise DataError(f"{name}: lies elsewhere in the patient than its image; resample it onto the image")
    suffix, data = encode_mask(found.pixels, name)
    return f"{name}.{suffix}", data


def _as_array(pixels: np.ndarray, member: str) -> tuple[str, bytes]:
    return ("png", encode_png(pixels)) if fits_png(pixels) else ("npy", _finite_npy(pixels, member))


def _described(medium: Medium, found: Decoded) -> Medium:
    """With what the files say where the reader, that is the card, says nothing."""
    return replace(
        medium, spacing_mm=medium.spacing_mm or found.spacing_mm, affine=medium.affine or found.affine,
        modality=medium.modality or found.modality, unit=found.unit if medium.unit == "display" else medium.unit,
    )  # fmt: skip


def _size(pixels: np.ndarray, unit: Unit) -> tuple[int, ...]:
    """(H, W) or (D, H, W), without colours, which 8 bits always have last and more bits have where they are for
    display."""
    colour = pixels.ndim == 4 or (
        pixels.ndim == 3 and pixels.shape[-1] == 3 and (fits_png(pixels) or unit == "display")
    )
    return pixels.shape[:-1] if colour else pixels.shape


def _split(sample: Sample, images: tuple[str, ...], card: Card) -> str:
    """By the public salt, so that another secret leaves everybody in their split. Raises DataError for a sample that
    does not say what the card splits by."""
    by = card.splits.by
    if by == "patient" and not sample.patient:
        raise DataError("has no patient, but the card splits by patient (splits.by, reader.patient)")
    if by == "column" and not (sample.split.isascii() and sample.split.isalnum()):
        raise DataError("has no split of letters and digits, but the card splits by a column (splits.by, reader.split)")
    if by == "column":
        return sample.split
    if by == "patient":
        return split_of(hash_name(sample.patient, card.splits.salt, "patient"), card.splits)
    # By content, so that one image under two names stays on one side.
    return split_of(
        images[0] if images else hash_name(f"{card.name}/{sample.key}", card.splits.salt, "key"), card.splits
    )


def _bytes_of(path: Path, member: str) -> bytes:
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise DataError(f"{member}: what its path names is not a plain file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{member}: a file of more than {MAX_FILE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as reason:
        raise DataError(f"{member}: its file cannot be read ({type(reason).__name__})") from None


def _finite_npy(array: np.ndarray, member: str) -> bytes:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{member}: holds values that are not finite")
    return encode_npy(array)


def _check_texts(sample: Sample, card: Card) -> None:
    """Raises DataError for text that could identify a person, of all that goes into a shard."""
    names = (sample.patient, sample.key, PurePosixPath(sample.key).stem)
    texts = [
        ("its concept", sample.concept),
        *(("a group", text) for group in sample.groups.items() for text in group),
        *(("the modality of a medium", medium.modality) for medium in sample.media),
    ]
    for question in sample.questions:
        phi.check("a question", question.text, card.phi.checked, names)
        texts += [
            ("a template", question.template),
            *((f"`{name}` of a truth", text) for name, text in _texts_of(question.truth)),
        ]
    phi.check("its report", sample.report, card.phi.checked, names)
    for what, text in texts:
        phi.check(what, text, card.phi.checked)


def _texts_of(truth: Truth) -> Iterator[tuple[str, str]]:
    """Every text of a truth, whatever its task, with the name of its field."""
    waiting: list[tuple[str, Any]] = [(name, value) for name, value in truth.to_json().items() if name != "task"]
    while waiting:
        name, value = waiting.pop(0)
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict):
            waiting += [(name, each) for item in value.items() for each in item]
        elif isinstance(value, list | tuple):
            waiting += [(name, each) for each in value]


def _check_truths(sample: Sample, files: Collection[str]) -> None:
    for question in sample.questions:
        try:
            if absent := [member for member in question.truth.members if member not in files]:
                raise DataError(f"there is no member {absent[0]}")
            find_task(question.truth.task).check(question.truth, sample.media)
        except DataError as reason:
            raise DataError(f"{question.template}: {reason}") from None


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, reversed(size)))
