"""One sample of an archive in the form that goes into a shard: bytes without metadata, sizes from the pixels, names by hash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from medvlm.archive.deal import keyed, split_of
from medvlm.core.card import Card
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.io.images import decode, encode_npy, encode_png, fits_png, suffix_of
from medvlm.io.phi import text as phi
from medvlm.io.strip import bare, orientation, upright

MAX_FILE_BYTES = 1 << 30
"""A larger file is not read."""


def prepared(raw: RawSample, card: Card) -> tuple[Sample, dict[str, bytes]]:
    """The sample but for its split (it has that where patients or a column decide), and its members. Raises DataError, without names or values of the archive, for a bad one."""
    sample, renamed, files, sizes = raw.sample, {}, {}, {}
    for member, value in raw.files.items():
        suffix, data, pixels = to_store(value, member)
        renamed[member] = f"{member.partition('.')[0]}.{suffix}"
        files[renamed[member]] = data
        sizes[member] = pixels.shape[:2] if suffix != "npy" else pixels.shape
    for medium in sample.media:
        if medium.kind not in card.media:
            raise DataError(f"medium of kind {medium.kind!r}, the card's media are {', '.join(card.media)}")
        if medium.size and tuple(medium.size) != sizes[medium.member]:
            raise DataError(f"annotated for {_by(medium.size)} pixels, its image has {_by(sizes[medium.member])}")
    media = tuple(replace(m, member=renamed[m.member], size=sizes[m.member]) for m in sample.media)
    _check_texts(sample, card)
    split = sample.split
    if card.splits.by == "patient" and sample.patient:  # by the public salt, so that another secret leaves everybody in their split
        split = split_of(keyed(sample.patient, card.splits.salt, "patient"), card.splits)
    patient = keyed(sample.patient, card.naming_salt, "patient") if sample.patient else ""
    key = keyed(f"{card.name}/{sample.key}", card.naming_salt, "key")
    stored = replace(sample, key=key, source=card.name, split=split, media=media, patient=patient)
    _check_boxes(stored)
    return stored, files


def to_store(value: Path | np.ndarray, member: str) -> tuple[str, bytes, np.ndarray]:
    """Suffix, bytes and pixels. Files keep their compressed pixels, unless EXIF turns the image: then it is stored upright, as PNG."""
    if isinstance(value, np.ndarray):
        return ("png", encode_png(value), value) if fits_png(value) else ("npy", _finite_npy(value, member), value)
    try:
        if value.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{member}: a file of more than {MAX_FILE_BYTES >> 20} MiB")
        data = value.read_bytes()
    except OSError as reason:
        raise DataError(f"{member}: its file cannot be read ({type(reason).__name__})") from None
    suffix = suffix_of(data)
    if suffix in ("png", "jpg"):
        stripped = bare(data, member)
        pixels, turn = decode(stripped, member), orientation(data)
        if turn == 1:
            return suffix, stripped, pixels
        pixels = upright(pixels, turn)
        return "png", encode_png(pixels), pixels
    array = decode(data, member)
    return "npy", _finite_npy(array, member), array  # written anew: nothing hides in the padding of its header


def _finite_npy(array: np.ndarray, member: str) -> bytes:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{member}: holds values that are not finite")
    return encode_npy(array)


def _check_texts(sample: Sample, card: Card) -> None:
    """Raises DataError for text that could identify a person, of all that goes into a shard."""
    names = (sample.patient, sample.key, PurePosixPath(sample.key).stem)
    texts = [("its concept", sample.concept), *(("the modality of a medium", medium.modality) for medium in sample.media)]
    for question in sample.questions:
        phi.check("a question", question.text, card.phi.checked, names)
        truth = question.truth
        texts += [("an answer", truth.answer), ("a template", question.template), ("a label", truth.label), *(("a choice", each) for each in truth.choices)]
    phi.check("its report", sample.report, card.phi.checked, names)
    for what, text in texts:
        phi.check(what, text, card.phi.checked)


def _check_boxes(sample: Sample) -> None:
    for question in sample.questions:
        for x1, y1, x2, y2 in question.truth.boxes:
            height, width = sample.media[0].size[-2:] if sample.media else (0, 0)
            if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                raise DataError(f"a box of {question.template} is empty or reaches beyond the image of {width} x {height} pixels")


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, reversed(size)))
