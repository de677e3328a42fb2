"""One file as a pydicom Dataset. Nothing else opens one, so what must hold for each of them is checked here.

Errors name attributes and counts, never a value, a path, or what pydicom said (it quotes values). All that uses a
Dataset runs within quiet().
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
"""Looks at a Dataset before its pixels are decoded; raises DataError for one that must not be used. Must pickle: it is
called where files are decoded."""

MAX_FILE_BYTES = 1 << 30
MAX_INFLATED_BYTES = 256 << 20
"""Of a deflated file, which pydicom inflates as a whole: 1 MB can become 1 GB."""
MAX_HEADER_BYTES = 64 << 20
"""Read where only the header is wanted; that of an enhanced object with thousands of frames has tens of MiB."""
MAX_READS = 500_000
"""Of a file: one or two for each attribute and item, each of which costs pydicom up to a kB and 50 us."""
MAX_ITEMS = 400_000
"""Of a sequence, with those within them; each of 20000 frames has a dozen."""


LIGHT_BYTES, LIGHT_READS, LIGHT_ITEMS = 4 << 20, 20_000, 4_000
"""Of a header that is read in about a second: most have some hundred attributes, those of thousands of frames have
more."""
LIGHT_INFLATED = 1 << 20
"""Of a deflated file, with its pixels: a slice of 512 x 512 has half of it."""


class NotDicom(DataError):
    """A file of another kind: no fault of an archive that holds other things too."""


class LongHeader(DataError):
    """A header that may take long: to be read where that harms nobody."""


def read_header(path: Path, keywords: tuple[str, ...], light: bool = False) -> Dataset:
    """These attributes of a file; pixels and all others are skipped. Raises NotDicom and DataError.

    light: raises Heavy for what may take longer than a second.
    """
    how: dict[str, Any] = {"stop_before_pixels": True, "specific_tags": list(keywords)}
    if not light:
        return _read(path, MAX_HEADER_BYTES, **how)
    dataset = _read(path, LIGHT_BYTES, light=True, **how)
    # Sequences of a stated length are parsed when they are asked for.
    if any(
        isinstance(element.value, bytes) and _count_items(element.value) > LIGHT_ITEMS for element in dataset.values()
    ):
        raise LongHeader("a long header")
    return dataset


def read_image_names(dicomdir: Path, light: bool = False) -> list[str]:
    """What a DICOMDIR names its images, parts joined by a backslash. Raises as read_header()."""
    with silence_pydicom():
        records = items(read_header(dicomdir, ("DirectoryRecordSequence",), light), "DirectoryRecordSequence")
        return [
            text(record, "ReferencedFileID") for record in records if text(record, "DirectoryRecordType") == "IMAGE"
        ]


def read_whole(path: Path, gate: Gate | None) -> Dataset:
    """All of a file: every Dataset whose pixels are used comes from here. Raises NotDicom, DataError, and what `gate`
    raises."""
    dataset = _read(path, math.inf)
    if gate is not None:
        gate(dataset)
    return dataset


@contextmanager
def silence_pydicom() -> Iterator[None]:
    """pydicom warns and logs with values of the header; within this it keeps silent, and passes what it can read."""
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


# --- attributes: a value that is checked, or an error that does not show it ----------------------------


def numbers(dataset: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Finite numbers, as many as `count`; None where the attribute is absent or empty. Raises DataError for anything
    else."""
    value = _get_value(dataset, keyword)
    if value is None:
        return None
    try:
        found = tuple(float(x) for x in (value if _is_many(value) else [value]))
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"its {keyword} is not made of numbers") from None
    if not all(map(math.isfinite, found)) or (count is not None and len(found) != count):
        raise DataError(f"its {keyword} holds {len(found)} numbers; expected {count or 'some'}, all finite")
    return found


def number(dataset: Dataset, keyword: str) -> float | None:
    found = numbers(dataset, keyword, 1)
    return None if found is None else found[0]


def whole(dataset: Dataset, keyword: str, least: int = 0) -> int:
    """Raises DataError where the attribute is absent, no whole number, or less than `least`."""
    found = number(dataset, keyword)
    if found is None or found != int(found) or found < least:
        raise DataError(
            f"its {keyword} is {'missing' if found is None else 'not a whole number of the expected range'}"
        )
    return int(found)


def text(dataset: Dataset, keyword: str) -> str:
    """As it is written; "" where it is absent or empty."""
    value = _get_value(dataset, keyword)
    return "" if value is None else "\\".join(map(str, value)) if _is_many(value) else str(value).strip()


def codes(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Code strings in upper case, e.g. ("ORIGINAL", "PRIMARY", "AXIAL"); () where there are none."""
    value = _get_value(dataset, keyword)
    if value is None:
        return ()
    return tuple(str(x).strip().upper() for x in (value if _is_many(value) else [value]))


def content(dataset: Dataset, keyword: str) -> bytes:
    """Raises DataError where the attribute is absent, empty, or no bytes."""
    value = _get_value(dataset, keyword)
    if not isinstance(value, bytes):
        raise DataError(f"it has no {keyword}" if value is None else f"its {keyword} is not made of bytes")
    return value


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent. Raises DataError for what is no sequence."""
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
    """Of a sequence that is not parsed yet, with those within them, in either order of bytes."""
    return raw.count(b"\xfe\xff\x00\xe0") + raw.count(b"\xff\xfe\xe0\x00")


def _get_value(dataset: Dataset, keyword: str) -> Any:
    try:
        value = dataset.get(keyword)
    except Exception as reason:  # raw values are parsed here, with whatever that raises
        raise DataError(f"its {keyword} cannot be read ({type(reason).__name__})") from None
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def _is_many(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__iter__")


# --- files ---------------------------------------------------------------------------------------------


def _read(path: Path, most: float, light: bool = False, **how: Any) -> Dataset:
    """most: bytes that are read of it at most. light: and few attributes, else Heavy is raised."""
    import pydicom

    with convert_errors("its file is damaged ({})"):
        with _BoundedFile(path, math.inf) as file:
            if file.read(132)[128:] != b"DICM":
                raise NotDicom(
                    "not a DICOM file (no DICM at byte 128); files without a preamble are not read: write them anew,"
                    " e.g. with dcmconv"
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
    """A file that refuses to be read beyond its end, which pydicom passes over, and in all beyond `most` bytes and
    MAX_READS: lengths in a damaged header reach 4 GB, and an item has 8 bytes."""

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
        # Short reads are pydicom's own: it looks ahead for delimiters.
        if size is not None and size > 1 << 16 and self.tell() + size > self.size:
            raise DataError(
                "its file is cut off, or the length of an attribute is wrong: it is more than what is left of the file"
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
    """Raises DataError for a deflated data set that is too large, before pydicom inflates it, and parses it unbounded:
    Heavy, where it is to be light."""
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
            raise DataError(f"a deflated file of more than {MAX_INFLATED_BYTES >> 20} MiB; inflate it first")
        data = stream.unconsumed_tail or file.read(1 << 16)
