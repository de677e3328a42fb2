"""One spelling for what looks alike: blanks, dashes, digits and letters that differ only in their code point."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_PLACEHOLDER = re.compile(r"\[\*\*([^\]\n]{0,80})\*\*\]")
_DATE_LIKE = re.compile(
    r"(?:\d{4}[-/])?\d{1,2}[-/]{1,2}\d{1,2}|\d{1,2}[-/]{1,2}(?:\d{1,2}[-/])?\d{4}|\d{4}[-/]\d{1,2}|\d{1,4}"
)
"""Dates in placeholders are shifted."""
_LISTED = """
    a account address age ambig apartment attending box cc certificate clip code college company contact country
    county date dates day device dictator digit digits doctor e email ethnicity fax female first firstname heading
    health hid holiday holidays hospital id identifier in info information initial initials job known last
    lastname lf licence license local location maiden mail male md medical mon month name nameis namepattern names
    ni number numeric only or other over pager patient phone plan po postal prefix prefixes provider radiology
    range record room security serial service social ssn state stitle street suite telephone title titles un unit
    university url us ward wardname web year years zip zipcode
"""
_WORDS_OF_PLACEHOLDERS = frozenset(_LISTED.split())
"""What MIMIC's de-identification writes in place of names and numbers."""
BLANK = " ___ "
"""What is left of a placeholder."""


class _Plain(dict[int, str]):
    """Code point -> plain text, found at its first use."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _spell(chr(code))
        return found


def _spell(char: str) -> str:
    kind = unicodedata.category(char)
    if char in "\n\x0b\x0c\x85\u2028\u2029":
        return "\n"
    if kind == "Zs" or char in "\t\r":
        return " "
    if kind == "Cf":  # zero-width blanks, soft hyphens, marks of direction
        return ""
    if kind == "Pd" or char in "\u2212\u2043\u02d7":
        return "-"
    if kind == "Nd":
        return str(unicodedata.decimal(char))
    if char in "\u2018\u2019\u02bc\u00b4\u2032":
        return "'"
    if char == "№":
        return "No"
    if char == "\u2044" or char == "\u2215":
        return "/"
    # Letters of ligatures, full width and mathematical alphabets; not the digits of exponents.
    return unicodedata.normalize("NFKC", char) if kind[0] == "L" or 0xFF00 <= ord(char) <= 0xFFEF else char


_PLAIN = _Plain()


@lru_cache(maxsize=256)
def spell_plainly(text: str) -> str:
    """The text with plain blanks, dashes and digits. Lines of a paragraph are joined; `\\n` separates paragraphs."""
    text = unicodedata.normalize("NFC", text).translate(_PLAIN)
    text = re.sub(r"[ ]{2,}", " ", text)
    text = re.sub(r"\n[ \n]*\n", "\0", re.sub(r" ?\n ?", "\n", text))
    return text.replace("\n", " ").replace("\0", "\n").replace("  ", " ")


def blank_placeholders(text: str) -> tuple[str, int]:
    """The text with a blank for each placeholder such as `[**Last Name 12**]`, and how many brackets hold anything
    else: that stays."""
    others = sum(not _is_placeholder(inner) for inner in _PLACEHOLDER.findall(text))
    return _PLACEHOLDER.sub(lambda found: BLANK if _is_placeholder(found[1]) else f" {found[1]} ", text), others


def _is_placeholder(inner: str) -> bool:
    inner = inner.strip()
    if _DATE_LIKE.fullmatch(inner):
        return True
    words, digits = re.findall(r"[^\W\d_]+", inner), re.findall(r"\d", inner)
    if re.search(r"[^\w\s()/.,:-]", inner) or len(digits) > 6 or (digits and not words):
        return False
    return all(word.casefold() in _WORDS_OF_PLACEHOLDERS for word in words)
