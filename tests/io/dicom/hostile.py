"""Truncated, contradictory and malicious files, each derived from a good one; for test_hostile.py."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.io.dicom.series import as_syntax, change, slices, to_enhanced

PATIENT = ("4711", "Mustermann", "0815", "1.2.826")
"""Words of the generated patient and UIDs, which no message may contain."""


def make_good(**header: Any) -> Dataset:
    """A CT slice that can be read."""
    return slices(size=(1, 40, 48), spacing=(2.5, 0.35, 0.45), offset=-500, **header)[0]


def to_bytes(ds: Dataset) -> bytes:
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def cut_everywhere(ds: Dataset, name: str) -> Iterator[tuple[str, bytes]]:
    """The file truncated at every structural boundary: before an element, before its length, before its value, and in
    the middle of the value."""
    data = to_bytes(ds)
    where = {0, 64, 128, 130, 132, 144}
    for begin, value, length in elements(data):
        where |= {begin, begin + 6, value, value + length // 2}
    where |= {data.find(ITEM, at) + extra for at in range(0, len(data), 400) for extra in (4, 8, 9)}
    yield from ((f"{name} cut at {at}", data[:at]) for at in sorted(where) if 0 <= at < len(data) - 1)


def elements(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(begin, begin of the value, length) of the top-level elements of an explicit little endian file, including its
    file meta group."""
    at = 132
    while at < len(data):
        value = at + (12 if data[at + 4 : at + 6] in LONG else 8)
        length = int.from_bytes(data[value - (4 if value - at == 12 else 2) : value], "little")
        yield at, value, min(length, len(data) - value)  # compressed pixels come last, without a length
        at = value + length


LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")


def misstate_lengths(ds: Dataset) -> Iterator[tuple[str, bytes]]:
    """The file with a wrong length for each element in turn."""
    data = to_bytes(ds)
    for begin, value, length in elements(data):
        tag = data[begin : begin + 4]
        name = f"{int.from_bytes(tag[:2], 'little'):04x},{int.from_bytes(tag[2:], 'little'):04x}"
        wrong = (0, length + 2, 0x7FFFFFFF, 0xFFFFFFFF) if value - begin == 12 else (0, length + 2, 0xFFFF)
        for found in wrong:
            size = struct.pack("<I" if value - begin == 12 else "<H", found)
            yield f"{name} with length {found:#x}", data[: value - len(size)] + size + data[value:]


def contradict_pixels() -> Iterator[tuple[str, bytes]]:
    """Headers that contradict the pixels."""
    headers: dict[str, dict[str, Any]] = {
        "65535 x 65535": {"Rows": 65535, "Columns": 65535},
        "65535 rows": {"Rows": 65535},
        "no rows": {"Rows": 0},
        "no columns": {"Columns": None},
        "2^31 - 1 frames": {"NumberOfFrames": 2**31 - 1},
        "-1 frames": {"NumberOfFrames": -1},
        "0 frames": {"NumberOfFrames": 0},
        "20000 frames": {"NumberOfFrames": 20000},
        "65535 samples": {"SamplesPerPixel": 65535},
        "no samples": {"SamplesPerPixel": 0},
        "0 bits": {"BitsAllocated": 0},
        "1 bit": {"BitsAllocated": 1},
        "64 bits": {"BitsAllocated": 64},
        "65535 bits": {"BitsAllocated": 65535},
        "0 bits stored": {"BitsStored": 0},
        "sign 7": {"PixelRepresentation": 7},
        "two slopes": {"RescaleSlope": [1, 2]},
        "empty slope": {"RescaleSlope": ""},
        "slope of 4000 digits": {"RescaleSlope": "9" * 4000},
        "colour": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
        "palette without one": {"PhotometricInterpretation": "PALETTE COLOR"},
        "two modalities": {"Modality": ["CT", "MR"]},
        "unknown modality": {"Modality": "../../x"},
        "empty pixels": {"PixelData": b""},
        "odd pixels": {"PixelData": bytes(1001)},
        "charset of nowhere": {"SpecificCharacterSet": "ISO_IR 9999"},
        "megabytes of a comment": {"ImageComments": "x" * (5 << 20)},
        "a study called ../../x": {"StudyInstanceUID": "../../x"},
        "two lines in a name": {"PatientID": "a\nb"},
    }
    for name, header in headers.items():
        yield name, to_bytes(change(make_good(), **header))
    for name in ("NumberOfFrames", "RescaleSlope", "RescaleIntercept", "PixelSpacing", "InstanceNumber"):
        for word in ("NaN", "inf", "1e308", "-1e39", "steep"):
            yield (
                f"{name} {word}",
                to_bytes(change(make_good(), **{name: [77777, 1] if name == "PixelSpacing" else 77777})).replace(
                    b"77777", word.ljust(5).encode()
                ),
            )
    frames = to_enhanced(slices(size=(4, 40, 48), spacing=(2.5, 0.35, 0.45), offset=-500))
    yield "groups of none of 4 frames", to_bytes(change(frames, PerFrameFunctionalGroupsSequence=[]))
    yield (
        "groups of 1000 frames",
        to_bytes(change(frames, NumberOfFrames=1000, PerFrameFunctionalGroupsSequence=[Dataset()] * 1000)),
    )
    yield "text where groups should be", to_bytes(make_good()).replace(b"\x28\x00\x02\x00US", b"\x00\x52\x30\x92LO", 1)


def streams() -> Iterator[tuple[str, bytes]]:
    """Compressed images that are invalid or differ from their header."""
    jls, j2k, rle = (as_syntax(make_good(), syntax) for syntax in (JPEGLSLossless, JPEG2000Lossless, RLELossless))
    code = next(pydicom.encaps.generate_frames(j2k.PixelData, number_of_frames=1))
    large = struct.pack(">8I", 8000, 8000, 0, 0, 8000, 8000, 0, 0)
    segments = struct.Struct("<16I")
    for name, ds, data in (
        ("JPEG-LS of nothing", jls, encapsulate([b"\xff\xd8\xff\xd9"])),
        ("JPEG-LS of zeros", jls, encapsulate([bytes(4096)])),
        ("JPEG-LS without fragments", jls, ITEM + bytes(4)),
        ("JPEG-LS without delimiters", jls, ITEM + b"\xff" * 4),
        (
            "JPEG-LS with offsets beyond the end",
            jls,
            ITEM + struct.pack("<II", 4, 0x7FFFFFF0) + jls.PixelData[8 + 4 * (jls.PixelData[4] > 0) :],
        ),
        ("JPEG-LS with a fragment of 4 GB", jls, ITEM + bytes(4) + ITEM + b"\xfe\xff\xff\xff" + bytes(50)),
        ("JPEG 2000 of 2^32 - 1 columns", j2k, encapsulate([code[:8] + b"\xff" * 4 + code[12:]])),
        ("JPEG 2000 of 16384 components", j2k, encapsulate([code[:40] + b"\x40\0" + code[42:]])),
        ("JPEG 2000 of tiles of one pixel", j2k, encapsulate([code[:24] + struct.pack(">II", 1, 1) + code[32:]])),
        ("JPEG 2000 cut in half", j2k, encapsulate([code[: len(code) // 2]])),
        ("JPEG 2000 with noise in it", j2k, encapsulate([code[:300] + noise(len(code) - 300)])),
        (
            "JPEG 2000 of 64 M pixels",
            change(as_syntax(make_good(), JPEG2000Lossless), Rows=8000, Columns=8000),
            encapsulate([code[:8] + large + code[40:]]),
        ),
        ("RLE of 2^32 - 1 segments", rle, encapsulate([b"\xff" * 64 + bytes(64)])),
        ("RLE whose segments lie beyond", rle, encapsulate([segments.pack(2, 64, 0x7FFFFFFF, *[0] * 13) + bytes(64)])),
        (
            "RLE that grows by 64",
            rle,
            encapsulate([segments.pack(2, 64, 64 + (1 << 20), *[0] * 13) + b"\x81\x07" * (1 << 20)]),
        ),
    ):
        yield name, to_bytes(change(ds, PixelData=data))
    for name, ds, syntax in (
        ("JPEG 2000 said to be JPEG", as_syntax(make_good(), JPEG2000Lossless), JPEGBaseline8Bit),
        ("JPEG-LS said to be a video", as_syntax(make_good(), JPEGLSLossless), "1.2.840.10008.1.2.4.100"),
        ("RLE said to be JPEG-LS", as_syntax(make_good(), RLELossless), JPEGLSLossless),
    ):
        ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        yield name, to_bytes(ds)
    yield "JPEG-LS of two frames", to_bytes(change(as_syntax(make_good(), JPEGLSLossless), NumberOfFrames=2))
    body = to_bytes(make_good())[len(meta("1.2.840.10008.1.2.1")) :]
    for syntax in (JPEG2000Lossless, RLELossless, ImplicitVRLittleEndian, "1.2.3.4", "", "1.2.840.10008.1.2.2"):
        yield f"explicit said to be {syntax or 'nothing'}", meta(syntax) + body
    yield "deflated noise", meta(DeflatedExplicitVRLittleEndian) + noise(5000)
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    start, zeros = (
        packed.compress(body) + packed.flush(zlib.Z_FULL_FLUSH),
        packed.compress(bytes(1 << 24)) + packed.flush(zlib.Z_FULL_FLUSH),
    )
    yield "deflated, cut", meta(DeflatedExplicitVRLittleEndian) + start[: len(start) // 2]
    yield "deflated gigabyte", meta(DeflatedExplicitVRLittleEndian) + start + zeros * 64 + packed.flush()


def nests() -> Iterator[tuple[str, bytes]]:
    """Sequences before the pixels with excessive depth or number, or wrong lengths."""
    data = to_bytes(make_good())
    at = data.index(b"\x10\x00\x10\x00PN")  # PatientName
    known, private = b"\x08\x00\x15\x11SQ\0\0", b"\x09\x00\x10\x10SQ\0\0"
    endless, closed = b"\xff" * 4, b"\xfe\xff\xdd\xe0" + bytes(4)
    item, end_of_item = ITEM + endless, b"\xfe\xff\x0d\xe0" + bytes(4)
    for name, sequence in {
        "5000 sequences in each other": (known + endless + item) * 5000,
        "200 sequences in each other, closed": (known + endless + item) * 200 + (end_of_item + closed) * 200,
        "5000 private sequences in each other": (private + endless + item) * 5000,
        "a sequence without end": known + endless + item,
        "a sequence of 4 GB": known + b"\xf0\xff\xff\xff",
        "an item of 4 GB": known + endless + ITEM + b"\xf0\xff\xff\xff",
        "a sequence of no items": known + endless + b"\x08\0\x08\0CS\x02\0AB" + closed,
        "20000 empty items": known + endless + (ITEM + bytes(4)) * 20_000 + closed,
        "an unknown attribute without end": b"\x09\x00\x11\x10UN\0\0" + endless,
        "a VR of nowhere": b"\x09\x00\x11\x10\xff\xfe\x04\x00abcd",
        "the same attribute twice": data[at : at + 8 + data[at + 6]] * 2,
        "pixels before the header": b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 64) + bytes(64),
        "2 MiB of tags": b"\x09\x00\x11\x10LO\0\0" * (256 << 10),
    }.items():
        yield name, data[:at] + sequence + data[at:]


ITEM = b"\xfe\xff\x00\xe0"


def noise(count: int) -> bytes:
    return np.random.default_rng(3).bytes(count)


def meta(syntax: str) -> bytes:
    """Only the preamble and the file meta group."""
    ds = make_good()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    out: Any = io.BytesIO()
    out.write(bytes(128) + b"DICM")
    pydicom.filewriter.write_file_meta_info(out, ds.file_meta, enforce_standard=False)
    return out.getvalue()
