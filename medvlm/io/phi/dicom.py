"""Checks whether the header of a DICOM file could identify a person: attributes that PS3.15 Annex E removes, at any
nesting depth.

Only header fields that io/dicom reads by name are stored. A file is refused here because such attributes show that it
was not de-identified, so its pixels and accompanying texts may not be either. Claims of a file about itself are not
trusted, because they are copied along; the exception is PatientIdentityRemoved. Not detected: names burnt into the
pixels although the header denies it, and faces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from medvlm.core.card import Checked
from medvlm.core.errors import DataError
from medvlm.io.phi.profile import REMOVED, SAFE_PRIVATE
from medvlm.io.phi.refusal import make_refusal

if TYPE_CHECKING:
    from pydicom import Dataset

Words = tuple[Checked, ...]
Finding = tuple[str, Words]
"""(what was found, words of a card, any of which accepts it)."""

BURNED_IN = frozenset({"US", "IVUS", "ES", "XC", "GM", "DMS", "OP", "OT", "SC", "DX", "MG", "IO", "PX"})
"""Modalities whose images usually carry text, or whose header must say whether they do (PS3.3 C.8.11.3). For these,
the header must deny burned-in text explicitly."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_BY_VR: dict[str, Words] = {
    "PN": ("identity",),
    "DA": ("dates",),
    "DT": ("dates",),
    "LT": ("descriptions",),
    "ST": ("descriptions",),
    "UT": ("descriptions",),
}
"""Value representations of names, dates and long texts: attributes of these count even if the table does not name
them."""
_DUMMY = re.compile(
    r"(anonymi[sz]ed?|anonymous|anon|removed(?: by ctp)?|de-?identified|none|null|n/?a|unknown|unspecified|[0x*.\-+"
    r" ]+|000[dwmy]|19000101|00010101)?[\s\^=\0]*",
    re.I,
)
"""Dummy values that de-identifiers write where an attribute must not be empty (action D)."""
_PATIENT_NAME, _PATIENT_ID, _PATIENT_AGE = 0x00100010, 0x00100020, 0x00101010
_OLDEST = 89
"""Ages in years above this one identify a person (45 CFR 164.514(b)(2)(i)(C))."""


def check(dataset: Dataset, checked: Collection[Checked] = ()) -> None:
    """Raises DataError for a header that says more than `checked` accepts. The error names attributes and counts, never
    a value."""
    found: Counter[str] = Counter()
    words: set[Checked] = set()
    for kind, accepted_by in (*_find_in_image(dataset), *_find_in_elements(dataset)):
        if not set(accepted_by) & set(checked):
            found[kind] += 1
            words.add(accepted_by[0])
    if found:
        raise make_refusal("its header", found, words, "de-identify it, e.g. with CTP, dicognito or deid")


def _find_in_image(dataset: Dataset) -> Iterator[Finding]:
    """Findings about the image as a whole."""
    if _text_at(dataset, 0x00120062).upper() != "YES":
        yield "PatientIdentityRemoved (0012,0062) is not YES", ("pseudonyms", "identity")
    burned, kinds = _text_at(dataset, 0x00280301).upper(), _text_at(dataset, 0x00080008).upper()
    captured = _text_at(dataset, 0x00080016).startswith(_SECONDARY_CAPTURE) or "SCREEN" in kinds
    if burned != "NO" and (burned == "YES" or captured or _text_at(dataset, 0x00080060).upper() in BURNED_IN):
        yield "BurnedInAnnotation (0028,0301) is not NO", ("pixels",)
    if _text_at(dataset, 0x00280302).upper() == "YES":
        yield "RecognizableVisualFeatures (0028,0302) is YES", ("pixels",)


def _find_in_elements(dataset: Dataset) -> Iterator[Finding]:
    """Findings in every element of every item. Not recursive, because files can nest deeper than Python's stack."""
    if _text_at(getattr(dataset, "file_meta", None) or {}, 0x00020102):
        yield "PrivateInformation (0002,0102)", ("private",)
    waiting = [dataset]
    while waiting:
        part = waiting.pop()
        for element in part.values():  # raw elements: converting a bad value could raise an error that quotes it
            tag, vr = int(element.tag), _vr_of(element)
            items = _read_items(part, tag) if vr == "SQ" else []
            waiting += items
            if (words := _words_accepting(part, tag, vr)) and (
                any(map(len, items)) or (vr != "SQ" and not _is_dummy(element))
            ):
                yield _describe(tag), words


def _words_accepting(part: Dataset, tag: int, vr: str) -> Words | None:
    """The words of a card that accept a non-empty element; None for one that is harmless."""
    group, element = tag >> 16, tag & 0xFFFF
    if group % 2:
        return None if _is_safe_private(part, group, element) else ("private",)
    if tag in REMOVED:
        is_name = tag in (_PATIENT_NAME, _PATIENT_ID) and not any(map(str.isdigit, _text_at(part, tag)))
        is_old = tag == _PATIENT_AGE and _parse_years(_text_at(part, tag)) > _OLDEST
        return ("identity",) if is_name or is_old else REMOVED[tag]
    if 0x5000 <= group <= 0x501E or (0x6000 <= group <= 0x601E and element in (0x3000, 0x4000)):
        return ("pixels",)
    if element and not _is_known(tag):
        return ("private",)
    return _BY_VR.get(vr)


def _is_safe_private(part: Dataset, group: int, element: int) -> bool:
    """Whether a private element is on the list of safe ones. The creator element of a block (PS3.5 7.8.1) is safe only
    if its block is known; any other creator could be free text."""
    if element <= 0xFF:
        return element == 0 or (group, _text_at(part, (group << 16) | element)) in SAFE_PRIVATE
    creator = _text_at(part, (group << 16) | (element >> 8))
    return element & 0xFF in SAFE_PRIVATE.get((group, creator), ())


def _describe(tag: int) -> str:
    """How an error names an attribute. Private attributes are named by group only, because there can be hundreds."""
    from pydicom.datadict import keyword_for_tag

    if (tag >> 16) % 2:
        return f"private attributes of group {tag >> 16:04X}"
    return f"{keyword_for_tag(tag) or 'an unknown attribute'} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _is_known(tag: int) -> bool:
    from pydicom.datadict import dictionary_has_tag, repeater_has_tag

    return dictionary_has_tag(tag) or repeater_has_tag(tag)


def _vr_of(element: Any) -> str:
    """The value representation of an element; from the dictionary if the file does not give it."""
    from pydicom.datadict import dictionary_VR

    vr = str(element.VR or "UN")
    return (
        str(dictionary_VR(element.tag)) if vr == "UN" and not element.tag.is_private and _is_known(element.tag) else vr
    )


def _read_items(part: Dataset, tag: int) -> list[Dataset]:
    try:
        return list(part[tag].value or ())
    except Exception as reason:
        raise DataError(
            f"its {_describe(tag)} cannot be read ({type(reason).__name__}), so its content cannot be checked"
        ) from None


def _is_dummy(element: Any) -> bool:
    value = element.value
    if value is None and getattr(element, "length", None):  # a deferred value, still in the file
        return False
    return (
        _DUMMY.fullmatch(_to_text(value[:256] if isinstance(value, bytes) and value[:256].strip(b"\0") else value))
        is not None
    )


def _text_at(part: Any, tag: int) -> str:
    return _to_text(part.get_item(tag).value) if tag in part else ""


def _to_text(value: Any) -> str:
    """A value as text: bytes as Latin-1, several values joined by backslashes as in a file; "" for None."""
    if isinstance(value, bytes):
        return value.decode("latin-1").strip(" \0")
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return "\\".join(map(str, value))
    return "" if value is None else str(value).strip(" \0")


def _parse_years(age: str) -> int:
    """Whole years of an age string such as 095Y; 0 if it is not one."""
    found = re.fullmatch(r"(\d+)\s*([DWMY])?", age.strip(), re.I)
    return int(int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12}.get((found[2] or "Y").upper(), 1)) if found else 0
