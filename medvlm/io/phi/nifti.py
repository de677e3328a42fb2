"""Whether the header of a NIfTI or Analyze file could identify a person: its text fields and its extensions.

Converters copy names, numbers and comments of DICOM there, and some programs leave what lay in memory. None of it is
stored; what is refused is a sign that nobody has looked. Faces in head scans are not seen here.
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
"""Text field -> the word of a card that accepts it; the others are descriptions."""

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
"""What programs write into a field as a rule."""


def check(header: Any, checked: Collection[Checked] = ()) -> None:
    """header: of nibabel (Nifti1Header, Nifti2Header, AnalyzeHeader), as it was read. Raises DataError that names
    fields and counts, never a value."""
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
    """All of a field counts, also what lies after its first zero byte: that is where memory is left."""
    text = value.decode("latin-1").strip(" \0")
    return not text or (name in _KNOWN and _KNOWN[name].fullmatch(text) is not None)


def _find_in_extensions(header: Any) -> Iterator[tuple[str, Checked]]:
    """Those that nibabel has read; of a header without its file, that there is room for some."""
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
