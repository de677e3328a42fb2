"""Size and format from the header of a compressed image, read before a decoder allocates memory for it."""

from __future__ import annotations

from typing import NamedTuple


def read_codestream_header(data: bytes) -> tuple[str, int, int, int] | None:
    """(form, height, width, samples) from the header of a JPEG or JPEG-LS (SOF marker) or JPEG 2000 (SIZ marker)
    stream; None if there is no such header."""
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 42:
        width, height, left, top = (int.from_bytes(data[i : i + 4], "big") for i in (8, 12, 16, 20))
        return "JPEG 2000", height - top, width - left, int.from_bytes(data[40:42], "big")
    if data[:4] == b"\0\0\0\x0c":  # a JP2 file around the stream: not allowed in DICOM (PS3.5 A.4.4), but it occurs
        at = data.find(b"jp2c\xff\x4f\xff\x51")
        return read_codestream_header(data[at + 4 : at + 64]) if 0 <= at < 4096 else None
    frame = find_jpeg_frame(data)
    return frame and (frame.form, frame.height, frame.width, frame.samples)


class JpegFrame(NamedTuple):
    """Content of the frame header of a JPEG or JPEG-LS stream. at: its position; other descriptions of the image (EXIF,
    thumbnails) come before it."""

    form: str
    height: int
    width: int
    samples: int
    at: int


def find_jpeg_frame(data: bytes) -> JpegFrame | None:
    """The first frame header (SOF marker) of a JPEG or JPEG-LS stream; None if there is none."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAME_MARKERS:
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            return JpegFrame("JPEG-LS" if data[at + 1] == 0xF7 else "JPEG", height, width, data[at + 9], at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big") if data[at + 1] != 0xFF else 1
    return None


_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
