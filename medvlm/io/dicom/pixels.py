"""Frames of a Dataset as they are stored, decoded by a named plug-in after their sizes were checked.

pydicom would take whichever plug-in is installed, and lossy ones differ in the last bit: here the transfer syntax decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.codestream import codestream_size
from medvlm.io.dicom.dataset import text, whole
from medvlm.io.dicom.header import num_frames

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_VOXELS = 1 << 28
"""Of one file or volume: 1024 slices of 512 x 512. As float32, 1 GiB."""

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_JPEG = "1.2.840.10008.1.2.4."
_PLUGINS = {
    **{_JPEG + end: "pylibjpeg" for end in ("51", "57", "70", "90", "91", "201", "202", "203")},
    **{_JPEG + end: "pyjpegls" for end in ("80", "81")},
    _JPEG + "50": "pillow",
    "1.2.840.10008.1.2.5": "pydicom",
}
"""Transfer syntax -> plug-in of pydicom, for those that are compressed."""
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREYS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")


def frames(dataset: Dataset, wanted: list[int]) -> Iterator[np.ndarray]:
    """The frames with these numbers: [H, W] of whole numbers, or uint8 [H, W, 3] in RGB.

    Raises DataError for what cannot be decoded, for more than MAX_VOXELS and for depths and colours that have no exact
    form in a sample.
    """
    from pydicom.pixels import pixel_array
    from pydicom.pixels.processing import apply_color_lut

    photometric, size = _check(dataset)
    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    for index in wanted:
        try:
            if syntax not in _NATIVE:
                _check_codestream(dataset, index, syntax)
            found = pixel_array(dataset, index=index, decoding_plugin=_PLUGINS.get(syntax, ""), allow_excess_frames=False)
            if photometric == "PALETTE COLOR":
                found = _to_8_bits(apply_color_lut(found, dataset))
        except DataError:
            raise
        except MemoryError:
            raise DataError("its pixels need more memory than there is") from None
        except Exception as reason:  # each plug-in raises its own types, and quotes the file
            raise DataError(f"its pixels cannot be decoded ({type(reason).__name__}): they are damaged or cut off") from None
        expected = (*size, 3) if photometric in _COLOURS or photometric == "PALETTE COLOR" else size
        if found.shape != expected or found.dtype.kind not in "iu":
            raise DataError("its pixels have another size or type than its header says")
        yield found


def _check(dataset: Dataset) -> tuple[str, tuple[int, int]]:
    """Photometric interpretation and (rows, columns), after everything that can be checked without decoding."""
    size, samples = (whole(dataset, "Rows", 1), whole(dataset, "Columns", 1)), whole(dataset, "SamplesPerPixel", 1)
    photometric, bits = text(dataset, "PhotometricInterpretation").upper(), whole(dataset, "BitsAllocated", 1)
    if "PixelData" not in dataset:
        raise DataError("it has no PixelData" + (" (but floating-point pixels, which are no image)" if "FloatPixelData" in dataset else ""))
    if size[0] * size[1] * samples * num_frames(dataset) > MAX_VOXELS:
        raise DataError(f"more than the {MAX_VOXELS:,} pixels that are decoded; split it")
    if bits not in (8, 16):
        raise DataError(f"{bits} bits a pixel; expected 8 or 16")
    if not 1 <= whole(dataset, "BitsStored", 1) <= bits:
        raise DataError("its BitsStored is more than its BitsAllocated")
    if (samples, photometric) not in {*((1, grey) for grey in _GREYS), *((3, colour) for colour in _COLOURS)}:
        raise DataError(f"its PhotometricInterpretation with {samples} samples a pixel is none of {', '.join((*_GREYS, *_COLOURS))}")
    if samples == 3 and (bits, whole(dataset, "BitsStored")) != (8, 8):
        raise DataError("a colour image of more than 8 bits; convert it to 8 bits a channel")
    _check_syntax(dataset)
    return photometric, size


def _check_syntax(dataset: Dataset) -> None:
    from pydicom.pixels import get_decoder

    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    if syntax in _NATIVE:
        return
    if syntax not in _PLUGINS:
        raise DataError("its transfer syntax (compression) is a video or unknown; decompress it, e.g. with dcmdjpeg or gdcmconv --raw")
    decoder = get_decoder(syntax)
    if _PLUGINS[syntax] not in decoder.available_plugins:
        raise DataError(f"it is compressed ({decoder.UID.name}) and the plug-in {_PLUGINS[syntax]} is not installed; pip install 'medvlm[dicom]'")


def _check_codestream(dataset: Dataset, index: int, syntax: str) -> None:
    """Raises DataError where the compressed image says another size than the header, before memory is taken for it."""
    from pydicom.encaps import get_frame

    data = get_frame(dataset.PixelData, index, number_of_frames=num_frames(dataset))
    if (found := codestream_size(data)) is not None and found != (whole(dataset, "Rows"), whole(dataset, "Columns")):
        raise DataError("its compressed image has another size than its header says")
    if found is None and syntax != "1.2.840.10008.1.2.5":
        raise DataError("its compressed image is damaged: there is no JPEG or JPEG 2000 header in it")


def _to_8_bits(colours: np.ndarray) -> np.ndarray:
    """Entries of a palette of 16 bits; some write 8 bits into the low byte."""
    return colours if colours.dtype == np.uint8 else (colours >> (8 if int(colours.max()) > 255 else 0)).astype(np.uint8)
