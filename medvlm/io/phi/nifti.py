"""Checks whether the header of a NIfTI or Analyze file could identify a person: its text fields and its extensions.

Converters copy names, numbers and comments from DICOM into them, and some programs leave remnants of memory there. None
of it is stored in shards; a file is refused because such content shows that nobody has checked it. Faces in head scans
are not detected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from medvlm.core.card import Checked
from medvlm.io.phi.refusal import make_refusal

_ACCEPTED_BY: dict[str, Checked] = {
    "db_name": "pseudonyms",
    "patient_id": "pseudonyms",
    "scannum": "pseudonyms",
    "exp_date": "dates",
    "exp_time": "dates",
}
"""Text field -> the word of a card that accepts it; all others are descriptions."""

_KNOWN = {
    "magic": re.compile(r"(n\+|ni)[12](\0\r\n\x1a\n)?"),
    "regular": re.compile(r"r"),
    "data_type": re.compile(r"dsr"),
    "aux_file": re.compile(r"none|Greyscale|Red-Yellow|Blue-Lightblue"),  # colour maps of FSL
    "descrip": re.compile(
        r"FSL\d+(\.\d+)*(beta)?|\d+\.\d+\.\d+(:[0-9a-f]{6,8})?"  # FSL
        r"|spm - (3D normalized|realigned|algebra)|SPM compatible"
        r"|TE=[\d.e+-]+;Time=\d+\.\d+(;phase=\d)?(;mb=\d+)?"  # dcm2niix: echo time, time of day
    ),
}
"""Text that programs routinely write into a field."""


def check(header: Any, checked: Collection[Checked] = ()) -> None:
    """Raises DataError for a header that says more than `checked` accepts. The error names fields and counts, never a
    value. header: of nibabel (Nifti1Header, Nifti2Header, AnalyzeHeader), as read from the file."""
    found: Counter[str] = Counter()
    words: set[Checked] = set()
    for kind, word in (*_find_in_fields(header), *_find_in_extensions(header)):
        if word not in checked:
            found[kind] += 1
            words.add(word)
    if found:
        raise make_refusal("its header", found, words, "clear it, e.g. with nibabel")


def _find_in_fields(header: Any) -> Iterator[tuple[str, Checked]]:
    for name, (kind, *_) in (header.structarr.dtype.fields or {}).items():
        if kind.kind == "S" and not _is_known(name, bytes(header.structarr[name])):
            yield name, _ACCEPTED_BY.get(name, "descriptions")


def _is_known(name: str, value: bytes) -> bool:
    """Whether a field is empty or has a known text. The bytes after the first zero byte count too: remnants of memory
    are found there."""
    text = value.decode("latin-1").strip(" \0")
    return not text or (name in _KNOWN and _KNOWN[name].fullmatch(text) is not None)


def _find_in_extensions(header: Any) -> Iterator[tuple[str, Checked]]:
    """The extensions that nibabel has read. For a header without its file, whether there is room for some."""
    extensions = list(getattr(header, "extensions", ()))
    for extension in extensions:
        yield f"header extension of code {extension.get_code()}", "private"
    names = header.structarr.dtype.names or ()
    if (
        not extensions
        and "magic" in names
        and bytes(header["magic"])[:2] == b"n+"
        and int(header["vox_offset"]) > header.sizeof_hdr + 4
    ):
        yield "bytes between header and voxels", "private"
