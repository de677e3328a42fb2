"""What a cell of a table says: text, nothing, a number in one of several forms, an identifier, a point in time."""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import date
from typing import Any

from medvlm.core.errors import DataError

NOTHING = frozenset(
    ("nan", "-nan", "null", "(null)", "<null>", "[null]", "na", "n/a", "#na", "#n/a", "#n/a n/a", "<na>")
)
"""What programs write for a missing value, in any letter case."""
NOTHING_AS_WRITTEN = frozenset(
    ("None", "NaT", "\\N", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!", "1.#QNAN", "1.#IND")
)
"""The same, where another letter case is a text: `none` is an answer."""

_EDGES = "\ufeff\u200b\u2060"
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_NUMBER = re.compile(r"0*(\d+)(?:\.0+)?")
_ANY_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"\d+(?:[.,]\d+[eE]\+?|[eE]\+)\d{2,}")  # not 12e34, which may be a code
_DATE = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T ](\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?Z?)?")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?")


def strip(text: str) -> str:
    """Without blanks and byte-order marks around it; "" where nothing of it can be seen."""
    text = text.strip().strip(_EDGES).strip()
    return "" if all(unicodedata.category(letter) in ("Cf", "Zs", "Zl", "Zp", "Cc") for letter in text) else text


def is_nothing(text: str) -> bool:
    """Whether it is a word that programs write for a missing value."""
    return text in NOTHING_AS_WRITTEN or text.lower() in NOTHING


def is_number(text: str) -> bool:
    return _ANY_NUMBER.fullmatch(text) is not None


def as_whole(text: str) -> str:
    """`3.0` as `3`; any other text as it is."""
    found = _WHOLE.fullmatch(text)
    return found[1] if found else text


def identify(text: str) -> str:
    """One form for an identifier: 12, 12.0, 0012 and ` 12` are the same. Raises DataError for a number in scientific
    notation, such as 1.23E+11: it has lost digits, and several patients share it."""
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    if _SCIENTIFIC.fullmatch(plain):
        raise DataError(
            "an identifier is a number in scientific notation (1.23E+11), whose last digits a spreadsheet has dropped;"
            " export the column as text"
        )
    number = _NUMBER.fullmatch(plain)
    return number[1] if number else plain


def order_value(text: str) -> float | None:
    """A number, an ISO date or a time as a number that grows with time; None for "".

    Dates count as YYYYMMDD and times as HHMMSS, as DICOM writes them. Raises DataError for any other text, such as
    01.02.2020: which of its numbers is the month is not certain."""
    if not text:
        return None
    if found := _DATE.fullmatch(text):
        year, month, day = map(int, found.groups()[:3])
        try:
            date(year, month, day)
        except ValueError:
            raise DataError("a date that does not exist") from None
        return year * 10_000 + month * 100 + day + _share_of_day(*found.groups()[3:])
    if found := _TIME.fullmatch(text):
        _share_of_day(*found.groups())
        return int(found[1]) * 10_000 + int(found[2]) * 100 + float(found[3] or 0)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError("neither a number, nor an ISO date (2019-05-01), nor a time (12:30)")
    return number


def is_date(text: str) -> bool:
    return _DATE.fullmatch(text) is not None


def _share_of_day(hours: Any, minutes: Any, seconds: Any) -> float:
    found = (int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)) / 86_400
    if not 0 <= found < 1 or int(minutes or 0) > 59:
        raise DataError("a time that does not exist")
    return found
