"""Frames of a Dataset as they are stored, decoded by a named plug-in after their sizes were checked.

pydicom would take whichever plug-in is installed, and lossy ones differ in the last bit: here the transfer syntax
decides."""

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
"""Of one frame, as of other images: a mammogram has 20 M."""
MAX_BYTES = 512 << 20
"""Of a volume or of the frames of a file, decoded: 1024 slices of 512 x 512 in int16."""

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_RLE, _JPEG = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4."
_PLUGINS = {
    **{_JPEG + end: "pylibjpeg" for end in ("51", "57", "70", "90", "91", "201", "202", "203")},
    **{_JPEG + end: "pyjpegls" for end in ("80", "81")},
    _JPEG + "50": "pillow",
    _RLE: "pydicom",
}
"""Transfer syntax -> plug-in of pydicom, for those that are compressed."""
_FORMS = {
    **dict.fromkeys((_JPEG + end for end in ("50", "51", "57", "70")), "JPEG"),
    **dict.fromkeys((_JPEG + end for end in ("80", "81")), "JPEG-LS"),
}
"""All others are JPEG 2000."""
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREYS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")


def decode_frames(dataset: Dataset, wanted: list[int]) -> Iterator[np.ndarray]:
    """The frames with these numbers: [H, W] of whole numbers, or uint8 [H, W, 3] in RGB.

    Raises DataError for what cannot be decoded, for more than MAX_PIXELS and for depths and colours that have no exact
    form in a sample.
    """
    from pydicom.pixels import pixel_array

    photometric, size = _check_layout(dataset)
    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    for index in wanted:
        with convert_errors("its pixels cannot be decoded ({}): they are damaged or cut off"):
            if syntax not in _NATIVE:
                _check_codestream(dataset, index, syntax)
            found = pixel_array(
                dataset, index=index, decoding_plugin=_PLUGINS.get(syntax, ""), allow_excess_frames=False
            )
        if found.shape != ((*size, 3) if photometric in _COLOURS else size) or found.dtype.kind not in "iu":
            raise DataError("its pixels have another size or type than its header says")
        low, high = range_of_stored(dataset)
        if found.min() < low or found.max() > high:
            raise DataError("its pixels have values for which the BitsStored of its header are too few")
        yield _apply_palette(found, dataset) if photometric == "PALETTE COLOR" else found


def range_of_stored(dataset: Dataset) -> tuple[int, int]:
    """The smallest and the largest value that a pixel can have."""
    bits = whole(dataset, "BitsStored", 1)
    return (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        if whole(dataset, "PixelRepresentation") == 1
        else (0, (1 << bits) - 1)
    )


def _apply_palette(indices_HW: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Colours of a palette, uint8 [H, W, 3]."""
    from pydicom.pixels.processing import apply_color_lut

    low, high = range_of_stored(dataset)
    try:
        table = apply_color_lut(np.arange(high + 1, dtype=np.uint16), dataset)
    except Exception as reason:  # segments and descriptors that contradict each other fail in a dozen ways
        raise DataError(f"its palette is damaged ({type(reason).__name__})") from None
    if low < 0 or table.shape != (high + 1, 3):
        raise DataError("its palette has transparency, or its pixels are signed")
    # Of 16-bit entries the high byte counts; some write 8 bits into the low one.
    table = table if table.dtype == np.uint8 else (table >> (8 if int(table.max()) > 255 else 0)).astype(np.uint8)
    return np.take(table, indices_HW, axis=0)


def _check_layout(dataset: Dataset) -> tuple[str, tuple[int, int]]:
    """Photometric interpretation and (rows, columns), after everything that can be checked without decoding."""
    size, samples = (whole(dataset, "Rows", 1), whole(dataset, "Columns", 1)), whole(dataset, "SamplesPerPixel", 1)
    photometric, bits = text(dataset, "PhotometricInterpretation").upper(), whole(dataset, "BitsAllocated", 1)
    stored = content(dataset, "PixelData")
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"more than the {MAX_PIXELS:,} pixels of an image that are decoded; tile it")
    if bits not in (8, 16):
        raise DataError(f"{bits} bits a pixel; expected 8 or 16")
    if not 1 <= whole(dataset, "BitsStored", 1) <= bits:
        raise DataError("its BitsStored is more than its BitsAllocated")
    if (samples, photometric) not in {*((1, grey) for grey in _GREYS), *((3, colour) for colour in _COLOURS)}:
        raise DataError(
            f"its PhotometricInterpretation with {samples} samples a pixel is none of {', '.join((*_GREYS, *_COLOURS))}"
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
    """In bytes. Padding may follow, but not as much as another frame: then Rows, Columns or NumberOfFrames are
    wrong."""
    if not frame * count <= found < frame * (count + 1):
        raise DataError(
            f"its PixelData has {found:,} bytes where its header says {count} x {frame:,}: it is cut off, or the header"
            " is wrong"
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
            f"it is compressed ({decoder.UID.name}) and the plug-in {_PLUGINS[syntax]} is not installed; pip install"
            " 'medvlm[dicom]'"
        )


def _check_codestream(dataset: Dataset, index: int, syntax: str) -> None:
    """Raises DataError where the compressed image says another size than the header, before memory is taken for it."""
    from pydicom.encaps import get_frame

    data = get_frame(content(dataset, "PixelData"), index, number_of_frames=count_frames(dataset))
    size = tuple(whole(dataset, name) for name in ("Rows", "Columns", "SamplesPerPixel"))
    if syntax == _RLE:  # what does not repeat grows by 1/128
        if len(data) > math.prod(size) * whole(dataset, "BitsAllocated") // 4 + 1024:
            raise DataError("its compressed image has more bytes than its pixels would have without")
        return
    found = read_codestream_header(data)
    if found is None or found[0] != _FORMS.get(syntax, "JPEG 2000"):
        raise DataError(
            f"its compressed image is damaged or of another kind: there is no {_FORMS.get(syntax, 'JPEG 2000')} header"
            " in it"
        )
    if found[1:] != size:
        raise DataError("its compressed image has another size than its header says")
