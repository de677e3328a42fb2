"""Decodes the stored frames of a Dataset, after checking their sizes.

pydicom would use any plug-in that is installed, and plug-ins for lossy formats differ in the last bit. Here the
transfer syntax determines the plug-in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.codestream import read_codestream_header
from medvlm.io.dicom.dataset import content, text, whole
from medvlm.io.dicom.header import count_frames
from medvlm.io.errors import convert_errors

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_PIXELS = 80_000_000
"""Limit for one frame, the same as for other images: a mammogram has 20 M."""
MAX_BYTES = 512 << 20
"""Limit for a decoded volume, or all decoded frames of a file: 1024 slices of 512 x 512 in int16."""

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_RLE, _JPEG = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4."
_PLUGINS = {
    **{_JPEG + end: "pylibjpeg" for end in ("51", "57", "70", "90", "91", "201", "202", "203")},
    **{_JPEG + end: "pyjpegls" for end in ("80", "81")},
    _JPEG + "50": "pillow",
    _RLE: "pydicom",
}
"""Compressed transfer syntax -> plug-in of pydicom."""
_FORMS = {
    **dict.fromkeys((_JPEG + end for end in ("50", "51", "57", "70")), "JPEG"),
    **dict.fromkeys((_JPEG + end for end in ("80", "81")), "JPEG-LS"),
}
"""Transfer syntax -> format of its codestream; all others are JPEG 2000."""
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREYS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")


def decode_frames(dataset: Dataset, wanted: list[int]) -> Iterator[np.ndarray]:
    """The frames with these indices: integers [H, W], or uint8 [H, W, 3] in RGB.

    Raises DataError for frames that cannot be decoded, for more than MAX_PIXELS, and for depths and colours that a
    sample cannot represent exactly.
    """
    from pydicom.pixels import pixel_array

    photometric, size = _check_layout(dataset)
    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    for index in wanted:
        with convert_errors("its pixels cannot be decoded ({}): they are damaged or truncated"):
            if syntax not in _NATIVE:
                _check_codestream(dataset, index, syntax)
            found = pixel_array(
                dataset, index=index, decoding_plugin=_PLUGINS.get(syntax, ""), allow_excess_frames=False
            )
        if found.shape != ((*size, 3) if photometric in _COLOURS else size) or found.dtype.kind not in "iu":
            raise DataError("its pixels have a different size or type than its header says")
        low, high = range_of_stored(dataset)
        if found.min() < low or found.max() > high:
            raise DataError("its pixels have values that do not fit into its BitsStored")
        yield _apply_palette(found, dataset) if photometric == "PALETTE COLOR" else found


def range_of_stored(dataset: Dataset) -> tuple[int, int]:
    """The smallest and the largest value that BitsStored allows."""
    bits = whole(dataset, "BitsStored", 1)
    return (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        if whole(dataset, "PixelRepresentation") == 1
        else (0, (1 << bits) - 1)
    )


def _apply_palette(indices_HW: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The colours of palette indices, uint8 [H, W, 3]."""
    from pydicom.pixels.processing import apply_color_lut

    low, high = range_of_stored(dataset)
    try:
        table = apply_color_lut(np.arange(high + 1, dtype=np.uint16), dataset)
    except Exception as reason:  # contradictory segments and descriptors raise a dozen types
        raise DataError(f"its palette is damaged ({type(reason).__name__})") from None
    if low < 0 or table.shape != (high + 1, 3):
        raise DataError("its palette has transparency, or its pixels are signed")
    # For 16-bit entries the high byte counts, but some programs write 8 bits into the low byte.
    table = table if table.dtype == np.uint8 else (table >> (8 if int(table.max()) > 255 else 0)).astype(np.uint8)
    return np.take(table, indices_HW, axis=0)


def _check_layout(dataset: Dataset) -> tuple[str, tuple[int, int]]:
    """Photometric interpretation and (rows, columns), after all checks that need no decoding."""
    size, samples = (whole(dataset, "Rows", 1), whole(dataset, "Columns", 1)), whole(dataset, "SamplesPerPixel", 1)
    photometric, bits = text(dataset, "PhotometricInterpretation").upper(), whole(dataset, "BitsAllocated", 1)
    stored = content(dataset, "PixelData")
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"it has more than the {MAX_PIXELS:,} pixels that are decoded; tile it")
    if bits not in (8, 16):
        raise DataError(f"it has {bits} bits per pixel; expected 8 or 16")
    if not 1 <= whole(dataset, "BitsStored", 1) <= bits:
        raise DataError("its BitsStored is more than its BitsAllocated")
    if (samples, photometric) not in {*((1, grey) for grey in _GREYS), *((3, colour) for colour in _COLOURS)}:
        raise DataError(
            f"its PhotometricInterpretation with {samples} samples per pixel is not one of"
            f" {', '.join((*_GREYS, *_COLOURS))}"
        )
    if samples == 3 and (bits, whole(dataset, "BitsStored")) != (8, 8):
        raise DataError("a colour image of more than 8 bits; convert it to 8 bits a channel")
    if whole(dataset, "PixelRepresentation") > 1:
        raise DataError("its PixelRepresentation is neither 0 (unsigned) nor 1 (signed)")
    _check_syntax(dataset)
    if text(dataset.file_meta, "TransferSyntaxUID") in _NATIVE:
        samples = 2 if photometric == "YBR_FULL_422" else samples
        _check_length(len(stored), size[0] * size[1] * samples * bits // 8, count_frames(dataset))
    return photometric, size


def _check_length(found: int, frame: int, count: int) -> None:
    """Checks the length of native pixel data. found: bytes there are; frame: bytes of one frame. Padding may follow,
    but not a whole frame's worth: then Rows, Columns or NumberOfFrames are wrong."""
    if not frame * count <= found < frame * (count + 1):
        raise DataError(
            f"its PixelData has {found:,} bytes, but its header says {count} x {frame:,}: it is truncated, or the"
            " header is wrong"
        )


def _check_syntax(dataset: Dataset) -> None:
    from pydicom.pixels import get_decoder

    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    if syntax in _NATIVE:
        return
    if syntax not in _PLUGINS:
        raise DataError(
            "its transfer syntax (compression) is a video or unknown; decompress it, e.g. with dcmdjpeg or gdcmconv"
            " --raw"
        )
    decoder = get_decoder(syntax)
    if _PLUGINS[syntax] not in decoder.available_plugins:
        raise DataError(
            f"it is compressed ({decoder.UID.name}), but the plug-in {_PLUGINS[syntax]} is not installed; pip install"
            " 'medvlm[dicom]'"
        )


def _check_codestream(dataset: Dataset, index: int, syntax: str) -> None:
    """Raises DataError if the size in the compressed image differs from the header, before a decoder allocates
    memory."""
    from pydicom.encaps import get_frame

    data = get_frame(content(dataset, "PixelData"), index, number_of_frames=count_frames(dataset))
    size = tuple(whole(dataset, name) for name in ("Rows", "Columns", "SamplesPerPixel"))
    if syntax == _RLE:  # has no size of its own; data without repetition grows by 1/128
        if len(data) > math.prod(size) * whole(dataset, "BitsAllocated") // 4 + 1024:
            raise DataError("its compressed image has more bytes than its pixels would have uncompressed")
        return
    found = read_codestream_header(data)
    if found is None or found[0] != _FORMS.get(syntax, "JPEG 2000"):
        raise DataError(
            f"its compressed image is damaged or of another format: it has no {_FORMS.get(syntax, 'JPEG 2000')} header"
        )
    if found[1:] != size:
        raise DataError("its compressed image has a different size than its header says")
