"""Opens a file as a pydicom Dataset. All DICOM files are opened here, so checks that apply to every file are here.

Errors name attributes and counts, never a value, a path, or pydicom's own message (it quotes values). All code that
uses a Dataset must run within silence_pydicom().
"""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm.core.errors import DataError
from medvlm.io.errors import convert_errors

if TYPE_CHECKING:
    from pydicom import Dataset

Gate = Callable[["Dataset"], None]
"""Checks a Dataset before its pixels are decoded; raises DataError for one that must not be used. Must be picklable,
because files are decoded in child processes."""

MAX_FILE_BYTES = 1 << 30
MAX_INFLATED_BYTES = 256 << 20
"""Limit for a deflated file after inflating, which pydicom does in one piece: 1 MB can become 1 GB."""
MAX_HEADER_BYTES = 64 << 20
"""Limit for a header. That of an enhanced object with thousands of frames has tens of MiB."""
MAX_READS = 500_000
"""Limit for the reads of a file. Every attribute and item takes one or two, each of which costs pydicom up to 1 kB and
50 us."""
MAX_ITEMS = 400_000
"""Limit for the items of a sequence, nested ones included; each of 20,000 frames has a dozen."""


LIGHT_BYTES, LIGHT_READS, LIGHT_ITEMS = 4 << 20, 20_000, 4_000
"""Limits for a header that is read in about a second. Most headers have some hundred attributes; those with thousands
of frames have more."""
LIGHT_INFLATED = 1 << 20
"""Limit for such a file if it is deflated, including its pixels: a slice of 512 x 512 takes half of it."""


class NotDicom(DataError):
    """The file is not DICOM. Not an error in an archive that also holds other files."""


class LongHeader(DataError):
    """The header may take long to read, so it must be read in a child process (see child.py)."""


def read_header(path: Path, keywords: tuple[str, ...], light: bool = False) -> Dataset:
    """The given attributes of a file; pixels and other attributes are skipped. Raises NotDicom and DataError.

    light: raises LongHeader for a file that may take longer than a second.
    """
    how: dict[str, Any] = {"stop_before_pixels": True, "specific_tags": list(keywords)}
    if not light:
        return _read(path, MAX_HEADER_BYTES, **how)
    dataset = _read(path, LIGHT_BYTES, light=True, **how)
    # pydicom parses a sequence of defined length only when it is accessed, so its items are counted here.
    if any(
        isinstance(element.value, bytes) and _count_items(element.value) > LIGHT_ITEMS for element in dataset.values()
    ):
        raise LongHeader("a long header")
    return dataset


def read_image_names(dicomdir: Path, light: bool = False) -> list[str]:
    """The file IDs of the images in a DICOMDIR, with parts joined by a backslash. Raises as read_header()."""
    with silence_pydicom():
        records = items(read_header(dicomdir, ("DirectoryRecordSequence",), light), "DirectoryRecordSequence")
        return [
            text(record, "ReferencedFileID") for record in records if text(record, "DirectoryRecordType") == "IMAGE"
        ]


def read_whole(path: Path, gate: Gate | None) -> Dataset:
    """The complete Dataset of a file. Every Dataset whose pixels are used comes from here. Raises NotDicom, DataError,
    and whatever `gate` raises."""
    dataset = _read(path, math.inf)
    if gate is not None:
        gate(dataset)
    return dataset


@contextmanager
def silence_pydicom() -> Iterator[None]:
    """Suppresses pydicom's warnings and logs, which quote header values, and turns off its validation of values."""
    import pydicom.config

    logger, settings = logging.getLogger("pydicom"), pydicom.config.settings
    before = logger.disabled, settings.reading_validation_mode
    logger.disabled, settings.reading_validation_mode = True, pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled, settings.reading_validation_mode = before


# --- typed access to attributes; errors never show a value ---------------------------------------------


def numbers(dataset: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """The finite numbers of an attribute, None if it is absent or empty. Raises DataError for any other content, or if
    there are not `count` of them."""
    value = _get_value(dataset, keyword)
    if value is None:
        return None
    try:
        found = tuple(float(x) for x in (value if _is_many(value) else [value]))
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"its {keyword} does not consist of numbers") from None
    if not all(map(math.isfinite, found)) or (count is not None and len(found) != count):
        raise DataError(f"its {keyword} has {len(found)} numbers; expected {count or 'some'}, all finite")
    return found


def number(dataset: Dataset, keyword: str) -> float | None:
    found = numbers(dataset, keyword, 1)
    return None if found is None else found[0]


def whole(dataset: Dataset, keyword: str, least: int = 0) -> int:
    """A whole number. Raises DataError if the attribute is absent, not a whole number, or less than `least`."""
    found = number(dataset, keyword)
    if found is None or found != int(found) or found < least:
        raise DataError(
            f"its {keyword} is {'missing' if found is None else 'not a whole number of the expected range'}"
        )
    return int(found)


def text(dataset: Dataset, keyword: str) -> str:
    """The text of an attribute as it is written; "" if it is absent or empty."""
    value = _get_value(dataset, keyword)
    return "" if value is None else "\\".join(map(str, value)) if _is_many(value) else str(value).strip()


def codes(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Code strings in upper case, e.g. ("ORIGINAL", "PRIMARY", "AXIAL"); () if the attribute is absent or empty."""
    value = _get_value(dataset, keyword)
    if value is None:
        return ()
    return tuple(str(x).strip().upper() for x in (value if _is_many(value) else [value]))


def content(dataset: Dataset, keyword: str) -> bytes:
    """The bytes of an attribute. Raises DataError if it is absent, empty, or not bytes."""
    value = _get_value(dataset, keyword)
    if not isinstance(value, bytes):
        raise DataError(f"it has no {keyword}" if value is None else f"its {keyword} does not consist of bytes")
    return value


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; [] if it is absent. Raises DataError for an attribute that is not a sequence."""
    raw = dataset.get_item(keyword).value if keyword in dataset else None
    if isinstance(raw, bytes) and _count_items(raw) > MAX_ITEMS:
        raise DataError(f"its {keyword} has more than {MAX_ITEMS:,} items")
    value = _get_value(dataset, keyword)
    if value is None:
        return []
    if isinstance(value, (str, bytes)) or not all(hasattr(item, "get_item") for item in value):
        raise DataError(f"its {keyword} is not a sequence")
    return list(value)


def _count_items(raw: bytes) -> int:
    """Upper bound for the items of a sequence that is not parsed yet, nested ones included. Counts item tags in either
    byte order."""
    return raw.count(b"\xfe\xff\x00\xe0") + raw.count(b"\xff\xfe\xe0\x00")


def _get_value(dataset: Dataset, keyword: str) -> Any:
    try:
        value = dataset.get(keyword)
    except Exception as reason:  # pydicom parses the raw value here, which can raise anything
        raise DataError(f"its {keyword} cannot be read ({type(reason).__name__})") from None
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def _is_many(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__iter__")


# --- files ---------------------------------------------------------------------------------------------


def _read(path: Path, most: float, light: bool = False, **how: Any) -> Dataset:
    """most: limit for the bytes read. light: also limits the number of reads; beyond either limit LongHeader is
    raised."""
    import pydicom

    with convert_errors("its file is damaged ({})"):
        with _BoundedFile(path, math.inf) as file:
            if file.read(132)[128:] != b"DICM":
                raise NotDicom(
                    "not a DICOM file (no DICM at byte 128); files without a preamble are not read; rewrite them, e.g."
                    " with dcmconv"
                )
            if file.size > MAX_FILE_BYTES:
                raise DataError(
                    f"a file of {file.size >> 20} MiB, more than the {MAX_FILE_BYTES >> 20} MiB that are read; split it"
                )
            _check_inflated(file, light)
        with _BoundedFile(path, most, light) as file:
            dataset = pydicom.dcmread(file, **how)
    return dataset


class _BoundedFile(io.BufferedReader):
    """A file that raises when it is read beyond its end, which pydicom ignores, or for more than `most` bytes or
    MAX_READS reads in total. Lengths in a damaged header can be 4 GB, and an item needs only 8 bytes."""

    def __init__(self, path: Path, most: float, light: bool = False) -> None:
        super().__init__(io.FileIO(path))
        self.size, self._left, self._reads, self._light = (
            self.seek(0, 2),
            most,
            LIGHT_READS if light else MAX_READS,
            light,
        )
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        # Short reads beyond the end are normal: pydicom looks ahead for delimiters.
        if size is not None and size > 1 << 16 and self.tell() + size > self.size:
            raise DataError(
                "its file is truncated, or an attribute has a wrong length, which is more than is left of the file"
            )
        self._reads -= 1
        if self._light and ((size or 0) > self._left or self._reads < 0):
            raise LongHeader("a long header")
        if (size or 0) > self._left or self._reads < 0:
            raise DataError(
                f"its header has more than the {MAX_HEADER_BYTES >> 20} MiB or the {MAX_READS // 2:,} attributes that"
                " are read"
            )
        found = super().read(size)
        self._left -= len(found)
        return found


def _check_inflated(file: _BoundedFile, light: bool) -> None:
    """Raises DataError for a deflated data set that is too large, because pydicom would inflate and parse it without
    limits. light: raises LongHeader above the lower limit."""
    from pydicom.filereader import _read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if _read_file_meta_info(file).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    stream, found = zlib.decompressobj(-zlib.MAX_WBITS), 0
    data = file.read(1 << 16)
    while data and not stream.eof:
        found += len(stream.decompress(data, 1 << 20))
        if light and found > LIGHT_INFLATED:
            raise LongHeader("a long header")
        if found > MAX_INFLATED_BYTES:
            raise DataError(f"a deflated file with more than {MAX_INFLATED_BYTES >> 20} MiB inflated; inflate it first")
        data = stream.unconsumed_tail or file.read(1 << 16)
