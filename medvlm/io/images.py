"""Converts pictures (PNG, JPEG, WebP, BMP, GIF, JPEG 2000) and .npy bytes to arrays and back, at the stored bit depth.

Axes: H W height, width.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io.file_kinds import describe_file

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
NPY_MAGIC = b"\x93NUMPY"

_MAGIC = (
    ("png", re.escape(PNG_MAGIC)),
    ("jpg", re.escape(JPEG_MAGIC)),
    ("npy", re.escape(NPY_MAGIC)),
    ("webp", rb"RIFF.{4}WEBP"),
    ("bmp", rb"BM.{4}\0\0\0\0"),
    ("gif", rb"GIF8[79]a"),
    ("jp2", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
)
_FORMS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "jp2": "JPEG2000"}
"""Suffix -> Pillow's name of the format."""

MAX_PIXELS = 80_000_000
"""Larger images are refused as decompression bombs (8944 x 8944; a mammogram has 20 M). This is below Pillow's own
limit of 89 M, which only warns."""
MAX_ARRAY_BYTES = 4 << 30


def suffix_of(data: bytes) -> str:
    """`png`, `jpg` or `npy`, which shards hold; `webp`, `bmp`, `gif` or `jp2`, which packing makes PNG of; "" for
    anything else. Detected from the content because suffixes can be wrong (some .jpg files are PNG)."""
    return next((suffix for suffix, magic in _MAGIC if re.match(magic, data, re.DOTALL)), "")


def decode(data: bytes, member: str) -> np.ndarray:
    """The pixels of a picture (see suffix_of), [H, W] or [H, W, 3], uint8 or uint16; or the array of a .npy, of any
    shape and numeric type.

    An alpha channel is dropped if every pixel is opaque. ICC profiles and gamma are not applied. member: the name used
    in errors. Raises DataError for damaged files, for more than MAX_PIXELS (before decoding), and for images that
    cannot be represented exactly here: transparency, CMYK, 16-bit colour, animation.
    """
    suffix = suffix_of(data)
    if suffix == "npy":
        return _decode_npy(data, member)
    if not suffix:
        raise DataError(f"{member}: not a PNG, JPEG or .npy, but {describe_file(data)}")
    with _open_picture(data, member) as image:
        return np.array(image)


def size_of(data: bytes, member: str) -> tuple[int, int]:
    """(height, width) of a picture. The image is fully decoded, so this raises what decode() raises, but it is not
    copied into an array, which saves a third of the time for a photograph."""
    with _open_picture(data, member) as image:
        return image.height, image.width


def peek_size(path: Path | IO[bytes]) -> tuple[int, int]:
    """(height, width) by the header of a picture; zeros for any other file."""
    from PIL import Image

    try:
        with Image.open(path, formats=tuple(_FORMS.values())) as image:
            return image.height, image.width
    except (OSError, ValueError, Image.DecompressionBombError):
        return 0, 0


def fits_png(array: np.ndarray) -> bool:
    """Whether PNG can store the array without loss: uint8 [H, W] or [H, W, 3], or uint16 [H, W]."""
    if array.dtype == np.uint16:
        return array.ndim == 2
    return array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes from which decode() restores the same values. Raises ValueError for an array that PNG cannot store, see
    fits_png()."""
    from PIL import Image

    if not fits_png(array):
        raise ValueError(
            f"cannot store {array.dtype} {list(array.shape)} as PNG without loss; expected uint8 [H, W(, 3)] or uint16"
            " [H, W]"
        )
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(out, "PNG")
    return out.getvalue()


def encode_npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


@contextmanager
def _open_picture(data: bytes, member: str) -> Iterator[Any]:
    """A decoded PIL image in a mode that converts to numpy without loss."""
    from PIL import Image

    form = _FORMS[suffix_of(data)]
    if form == "PNG" and data[24:25] == b"\x10" and data[25:26] != b"\x00":
        # Pillow would silently truncate to 8 bits.
        raise DataError(
            f"{member}: a 16-bit PNG with colour or alpha; expected 16-bit grey or 8-bit; convert it, or store it as"
            " .npy"
        )
    if form == "BMP" and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):  # Pillow guesses where the runs are damaged
        raise DataError(f"{member}: a run-length encoded BMP; save it as PNG")
    if form == "JPEG2000" and _is_deep_colour(data):
        raise DataError(f"{member}: a JPEG 2000 with colours of more than 8 bits; convert it to 8 bits a channel")
    try:
        with Image.open(io.BytesIO(data), formats=[form]) as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise DataError(
                    f"{member}: {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} that are decoded;"
                    " resize or tile it"
                )
            if getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{member}: {getattr(image, 'n_frames', 1)} frames in one file; expected one image")
            image.load()
            yield _to_plain_mode(image, member)
    except DataError:
        raise
    except Exception as reason:
        # Pillow raises a dozen types on damaged bytes, and some of its messages contain memory addresses.
        raise DataError(f"{member}: a damaged {form} ({type(reason).__name__})") from None


def _count_colours(palette: Any) -> int:
    """Entries of a palette, also those of one colour."""
    return len(palette.palette) // len(palette.mode)


def _is_deep_colour(data: bytes) -> bool:
    """Whether a JPEG 2000 has several components of more than 8 bits, which Pillow would cut (ISO 15444-1, A.5.1)."""
    at = data.find(b"\xff\x4f\xff\x51")
    depths = data[at + 42 :: 3][: int.from_bytes(data[at + 40 : at + 42], "big")] if at >= 0 else b""
    return len(depths) > 1 and any((depth & 0x7F) + 1 > 8 for depth in depths)


def _to_plain_mode(image: Any, member: str) -> Any:
    """The image as grey, 16-bit grey or RGB, without alpha. Raises DataError if any pixel is transparent."""
    see_through = image.info.get("transparency")
    if image.mode == "P" and image.format == "BMP" and image.getextrema()[1] >= _count_colours(image.palette):
        raise DataError(f"{member}: a damaged BMP: pixels have colours that are not in its palette")
    if image.mode == "P":
        image = image.convert("RGB" if see_through is None else "RGBA")
    elif see_through is not None and image.mode in ("1", "L", "RGB"):
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode in ("LA", "RGBA"):
        lowest, _ = image.getchannel("A").getextrema()
        if lowest < 255:
            raise DataError(f"{member}: has transparent pixels, whose values are undefined; flatten it first")
        image = image.convert("RGB" if image.mode == "RGBA" else "L")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB", "I;16"):
        raise DataError(f"{member}: pixel mode {image.mode}; expected grey (8 or 16 bit) or RGB (8 bit)")
    if image.mode == "I;16" and see_through is not None and bool((np.array(image) == see_through).any()):
        raise DataError(f"{member}: has transparent pixels, whose values are undefined; flatten it first")
    return image


def name_type(dtype: np.dtype) -> str:
    """Without the names of fields, which are words of the archive."""
    return f"record of {len(dtype.names)} fields" if dtype.names else str(dtype)


def _decode_npy(data: bytes, member: str) -> np.ndarray:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
    except Exception as reason:  # numpy parses the header as a Python literal, which can raise anything
        raise DataError(f"{member}: a damaged .npy header ({type(reason).__name__})") from None
    if dtype.kind not in "biuf":
        raise DataError(
            f"{member}: .npy of type {name_type(dtype)}; expected numbers (pickled objects are never loaded)"
        )
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if min(shape, default=0) < 0 or expected != found or expected > MAX_ARRAY_BYTES:
        raise DataError(
            f"{member}: the .npy header says {dtype} {list(shape)} = {expected} bytes, found {found} (at most"
            f" {MAX_ARRAY_BYTES} are read)"
        )
    stream.seek(0)
    array: np.ndarray = np.load(stream, allow_pickle=False)
    return array
