"""Text as words, numbers and the signs that change what it says."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple


class Token(NamedTuple):
    """form: lower case, as it is compared. gap: what stands between the token before it and this one. raw: as
    written."""

    form: str
    gap: str
    raw: str


UNITS = (
    "mmhg|mm3|mm2|cm3|cm2|mm|cm|dm|km|nm|μm|um|mcm|m2|m3|ml|dl|cl|cc|μl|ul|mg|kg|μg|ug|mcg|ng|pg|meq|mmol|mol|hu|hz|khz"
    "|mhz|kv|kvp|ma|mas|mgy|msv|gy|bpm|kpa|ppm|min|sec|hrs|ms|kda|iu|inches|inch|feet"
)
"""Abbreviations that stand right behind a number: `3cm`. Those of one letter are left to `T2`, `3D` and the like."""
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that are written without blanks: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_BEFORE_NFKC = {
    **dict.fromkeys("‐‑‒–−﹣－⁃", "-"),
    **dict.fromkeys("—―", " - "),
    **dict.fromkeys("≧⩾⪖", "≥"),
    **dict.fromkeys("≦⩽⪕", "≤"),
    **dict.fromkeys("≅≃∼～", "≈"),
    **dict.fromkeys("\u200c\u200d\u2060\ufeff", ""),
    **{chr(code): "" for code in range(0xFE00, 0xFE10)},
    "″": '"',
    "′": "'",
    "№": "# ",
    "×": " x ",
    "٫": ".",
    "٬": ",",
    "¼": " ¼",
    "½": " ½",
    "¾": " ¾",
}
_TRANSLATED = str.maketrans(_BEFORE_NFKC)
_RAISED = re.compile(r"(?<=[0-9])[⁺⁻]?[⁰¹²³⁴-⁹]+")
_REWRITTEN = (
    (re.compile(r"&lt;"), "<"),
    (re.compile(r"&gt;"), ">"),
    (re.compile(r"<(/?[A-Za-z][^<>]*)>"), r" \1 "),  # the brackets of a tag are no relations
    (re.compile(r"(?<!\w)([\"'`])([^\"'`]*)\1(?!\w)"), r" \2 "),  # what stands in quotes is no feet or minutes
    (re.compile(r"(?:--?|==?)>"), "→"),
    (re.compile(r">\s?="), "≥"),
    (re.compile(r"<\s?=|=<"), "≤"),
    (re.compile(r"!=|<>"), "≠"),
    (re.compile(r"\+\s?/\s?-|\+-(?=\s*[0-9])"), "±"),
    (re.compile(r"~(?=\s*[0-9])"), "≈"),
)
_CLOSING, _OPENING = ")]}\"'", "([{\"'"


def scan_tokens(text: str) -> list[Token]:
    """Words of letters, digits and the marks of their script (vowels of Hindi, Thai and Arabic); numbers with their
    sign and `%`; and signs. A hyphen, slash or colon stays where it stands between digits, a plus or minus also behind
    a word (`ER-`); other punctuation goes."""
    return _join(prepare_text(text))


def prepare_text(text: str) -> str:
    """The same text with one character for each kind of dash, digit and relation; case stays."""
    text = _RAISED.sub(lambda raised: "^" + raised[0], text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_TRANSLATED)).replace("−", "-").replace("⁄", "/")
        text = write_ascii_digits(text)
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    return text


def write_ascii_digits(text: str) -> str:
    """With the decimal digits of every script as 0 to 9."""
    others = {char for char in set(text) if char.isdecimal() and char > "9"}
    return text.translate({ord(char): str(unicodedata.decimal(char)) for char in others}) if others else text


@cache
def _pattern() -> re.Pattern[str]:
    marks = _list_characters(("Mn", "Mc", "Me"), range(0x300, 0x10000))
    symbols = "‰" + _list_characters(("Sm", "Sc", "So"), [*range(0x80, 0x10000), *range(0x1F000, 0x1FB00)])
    unit = rf"(?:{UNITS})(?![^\W_])"
    number = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)+|(?<![^\W_])\.[0-9]+"
    return re.compile(
        rf"(?P<number>(?:{number}|[0-9]+(?=\s*%|{unit})|[0-9]+(?![^\W_]))(?:\s*%)?)"
        rf"|(?P<word>[{_UNSPACED}][{marks}]*|(?:[^\W_{_UNSPACED}]|[{marks}])+)"
        rf"|(?P<sign>[+-]+|[<>=%^*/:'\"]|[{symbols}])",
        re.IGNORECASE,
    )


def _list_characters(categories: tuple[str, ...], codes: Iterable[int]) -> str:
    """Those of some Unicode categories, as ranges of a character class of a pattern."""
    ranges: list[list[int]] = []
    for code in codes:
        if unicodedata.category(chr(code)) not in categories:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def _join(text: str) -> list[Token]:
    matches = list(_pattern().finditer(text))
    tokens: list[Token] = []
    end, minus = 0, ""
    for index, match in enumerate(matches):
        start = match.start() - len(minus)
        if match["sign"]:
            before = matches[index - 1] if index else None
            after = matches[index + 1] if index + 1 < len(matches) else None
            if match[0] == "-" and _is_minus(text, match, before, after):
                minus = "-"
                continue
            if not _is_kept(text, match, before, after):
                continue
        form = _write_number(match["number"]) if match["number"] else match[0].casefold()
        tokens.append(Token(minus + form, text[end:start], minus + match[0]))
        end, minus = match.end(), ""
    return tokens


def _is_minus(text: str, match: re.Match[str], before: re.Match[str] | None, after: re.Match[str] | None) -> bool:
    """Whether it is the sign of a number: `-2`, also `- 2` where nothing stands before it."""
    if after is None or not after["number"]:
        return False
    if before is None:
        return not text[match.end() : after.start()].strip()
    return after.start() == match.end() and not (text[match.start() - 1].isalnum() or text[match.start() - 1] in ")+-")


def _is_kept(text: str, match: re.Match[str], before: re.Match[str] | None, after: re.Match[str] | None) -> bool:
    """Whether a sign is part of what is said, and no punctuation."""
    sign = match[0]
    left = text[match.start() - 1] if match.start() else ""
    right = text[match.end()] if match.end() < len(text) else ""
    if sign in "/:-" and _has_digit(before) and _has_digit(after):
        assert before is not None and after is not None
        between = text[before.end() : match.start()] + text[match.end() : after.start()]
        return not between.strip() and (sign != ":" or not between)
    if sign == "-":
        if left in _OPENING and right in _CLOSING and left and right:
            return True
        if after is not None and _is_word(left) and re.match(r"[+-](?![^\W_])", text[after.end() :]):
            return after.start() == match.end()  # `ER-PR+`
        if _is_word(left) or (left and left in "+)"):
            return not _is_word(right)
        return after is None and (not left or left.isspace())
    if set(sign) == {"-"}:
        return before is None and after is None
    if sign == "*":
        return _is_word(left) and _is_word(right)
    if sign == "^":
        return left.isdigit()
    if sign in "'\"":
        return left.isdigit() and not _is_word(right)
    return sign not in "/:"


def _is_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character or " ")[0] == "M"


def _has_digit(match: re.Match[str] | None) -> bool:
    return match is not None and not match["sign"] and any(map(str.isdigit, match[0]))


def _write_number(text: str) -> str:
    """`007`, `2.50`, `.5`, `1,024` and `5 %` as `7`, `2.5`, `0.5`, `1024` and `5%`; `1.2.0` stays."""
    percent = "%" if text.endswith("%") else ""
    digits = text.rstrip("% \t\n").replace(",", "")
    if digits.count(".") > 1:
        return digits + percent
    whole, point, part = digits.partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return whole + (point + part if part else "") + percent
