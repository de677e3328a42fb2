"""Strips an image file of its metadata: cameras, viewers and hospitals store names, dates and thumbnails there.

The code lists what is kept, and drops everything else. The compressed pixels are copied unchanged, so nothing is lost.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.checksum import crc32
from medvlm.io.images import JPEG_MAGIC, PNG_MAGIC, suffix_of

PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"sBIT", b"IDAT", b"IEND"})
"""PNG chunks that are kept. sBIT records that e.g. 12 of 16 bits are used. Gamma, ICC profile, resolution, text, time
and EXIF are dropped; decode() applies none of them."""

_MAY_TURN = frozenset({b"eXIf", b"iTXt", b"tEXt", b"zTXt"})
"""Chunks in which Pillow searches for an orientation."""

_APP0, _APP14, _SOS, _EOI = 0xE0, 0xEE, 0xDA, 0xD9
_APP1 = b"\xff\xe1"
_CODING = range(0xC0, 0xE0)
"""Codes of frame, scan and table segments. Higher codes are application segments, extensions and comments."""
# Within a scan, FF00 is a stuffed byte and FFD0..FFD7 are restart markers: both belong to the pixels.
# The pattern starts with one fixed byte, which `re` finds forty times faster than a pattern that starts with `\xff+`.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def strip_metadata(data: bytes, member: str) -> bytes:
    """The same PNG or JPEG with only the parts that its pixels need. Bytes after its end are dropped.

    Raises DataError for any other format, and for a file that ends early or has damaged chunks.
    """
    if data.startswith(PNG_MAGIC):
        return _strip_png(data, member)
    if data.startswith(JPEG_MAGIC):
        return _strip_jpeg(data, member)
    raise DataError(f"{member}: not a PNG or JPEG file")


def read_orientation(data: bytes) -> int:
    """The EXIF orientation of a PNG, JPEG or WebP, 1..8. 1 is upright and the default, also of any other file."""
    from PIL import Image

    if suffix_of(data) not in ("png", "jpg", "webp"):
        return 1

    if data.startswith(PNG_MAGIC) and not _MAY_TURN & set(_list_chunk_names(data)):
        return 1  # a shortcut: without EXIF, Pillow decodes the whole PNG to look for one after the pixels
    if data.startswith(JPEG_MAGIC) and _APP1 not in data:
        return 1  # no EXIF and no XMP
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
        found = image.getexif().get(0x0112, 1)
    return found if found in range(1, 9) else 1


def turn_upright(pixels_HW: np.ndarray, turn: int) -> np.ndarray:
    """The pixels turned as every viewer shows them, which is what reports and annotations refer to.

    pixels_HW: [H, W] or [H, W, 3]. turn: the EXIF orientation (EXIF 2.32, section 4.6.5 A).
    """
    return np.ascontiguousarray(_TURNS[turn](pixels_HW))


_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


def _list_chunk_names(data: bytes) -> Iterator[bytes]:
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _strip_png(data: bytes, member: str) -> bytes:
    view, kept, at = memoryview(data), [memoryview(PNG_MAGIC)], len(PNG_MAGIC)
    while at + 12 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data) or crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise DataError(f"{member}: a damaged PNG: the chunk at byte {at} is truncated or its checksum is wrong")
        if name == b"acTL":
            raise DataError(f"{member}: an animated PNG; expected one image")
        if name in PNG_CHUNKS:
            kept.append(view[at:end])
        if name == b"IEND":
            return b"".join(kept)
        at = end
    raise DataError(f"{member}: a damaged PNG: it ends at byte {len(data)} without its end chunk")


def _strip_jpeg(data: bytes, member: str) -> bytes:
    kept, at = [b"\xff\xd8"], 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes before a marker
            at += 1
        marker, length = data[at + 1 : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at : at + 1] != b"\xff" or not marker:
            raise DataError(f"{member}: a damaged JPEG: no marker at byte {at} of {len(data)}")
        code = marker[0]
        if code == _EOI:
            return b"".join([*kept, b"\xff\xd9"])
        body = data[at + 4 : at + 2 + length]
        if length < 2 or len(body) != length - 2:
            raise DataError(
                f"{member}: a damaged JPEG: the segment at byte {at} is longer than the file ({len(data)} bytes)"
            )
        if (needed := _keep_needed(code, body)) is not None:
            kept.append(b"\xff" + marker + (len(needed) + 2).to_bytes(2, "big") + needed)
        at += 2 + length
        if code == _SOS:
            end = _NEXT_MARKER.search(data, at)
            if end is None:
                raise DataError(f"{member}: a damaged JPEG: it ends at byte {len(data)} without its end marker")
            kept.append(data[at : end.start()].rstrip(b"\xff"))  # fill bytes before the marker
            at = end.start()


def _keep_needed(code: int, body: bytes) -> bytes | None:
    """The part of a segment that affects the pixels; None if nothing does."""
    if code == _APP0 and body.startswith(b"JFIF\0"):
        return body[:12] + b"\0\0"  # without its thumbnail: the last two bytes are the thumbnail's size
    if code == _APP14 and body.startswith(b"Adobe"):
        return body[:12]  # the colour transform
    return body if code in _CODING else None
