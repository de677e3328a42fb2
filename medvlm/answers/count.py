"""A number of things: digits or an English number word."""

from __future__ import annotations

import re

NUMBER_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
_VALUE = {word: n for n, word in enumerate(NUMBER_WORDS)} | {"none": 0}
# Ranges, decimals, signs and thousands (3-4, 3.5, -3, 1,000) are caught whole, so that they are refused and not read in
# part. Nothing after the digits can make the pattern fail: a text of many digits costs one pass, not one for each
# digit.
_NUMBER = re.compile(rf"(?<!\w)([-+]?[0-9]+(?:[.,/:-][0-9]+)*)(\w*)|\b({'|'.join(_VALUE)})\b")


def write(n: int) -> str:
    return str(n)


def parse(text: str) -> int | None:
    """The number that the text names; None if it names none, or several that differ.

    Read: digits and the words zero to twenty and `none`. Not read: ranges, decimals, signed numbers, digits
    that touch letters (`T2`, `3cm`), numbers of more than nine digits.
    """
    found = None
    for match in _NUMBER.finditer(text.lower()):
        digits, unit, word = match.groups()
        if unit:
            continue
        number = _VALUE[word] if word else _whole(digits)
        if number is None or found not in (None, number):
            return None
        found = number
    return found


def _whole(digits: str) -> int | None:
    return int(digits) if digits.isdecimal() and len(digits) <= 9 else None
