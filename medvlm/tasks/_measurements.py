"""Lengths and angles in a text: `12.3 mm`, `1.2 x 0.8 cm`, `45°`."""

from __future__ import annotations

import re

from medvlm.tasks._negation import compile_phrases, is_doubtful
from medvlm.tasks._notations import DENIED
from medvlm.tasks._tokens import UNITS, write_ascii_digits
from medvlm.tasks._words import LONGEST_ANSWER

MM, DEGREES = "mm", "degrees"
_FACTORS = {
    MM: {"mm": 1.0, "cm": 10.0, "µm": 1e-3, "um": 1e-3},
    DEGREES: {"degrees": 1.0},
}
_NAMES = (
    (re.compile(r"[°º]|(?<![a-z])deg(?:ree|rees)?(?![a-z])"), f" {DEGREES} "),
    (re.compile(r"(?<![a-z])milli(?:metre|meter)s?(?![a-z])"), " mm "),
    (re.compile(r"(?<![a-z])centi(?:metre|meter)s?(?![a-z])"), " cm "),
    (re.compile(r"(?<![a-z])micro(?:metre|meter)s?(?![a-z])|μm|(?<![a-z])microns?(?![a-z])"), " µm "),
    (re.compile(r"[×*]|(?<=[0-9 m])x(?=[ 0-9])|(?<![a-z])by(?![a-z])"), " x "),
)
_NUMBER = r"[0-9]{1,6}(?:\.[0-9]{0,6})?"
_UNIT = "|".join(unit for units in _FACTORS.values() for unit in units)
_ONE = re.compile(rf"(?P<number>(?<![\w.,^/-]){_NUMBER})(?![\w.,:/^]*[0-9])\s*(?P<unit>(?:{_UNIT})(?![a-z0-9^²³]))?")
_LOOSE = re.compile(rf"(?<![a-z0-9.])[0-9]|(?<![a-z])(?:{_UNIT})(?![a-z])")
_FOREIGN = re.compile(rf"[0-9]\s*(?:[%‰/:]|(?:{'|'.join({*UNITS.split('|')} - {*_UNIT.split('|')})})(?![a-z]))")
_BOUND = re.compile(
    r"[<>≤≥±~+]|(?<=[0-9])\s*(?:-|–|—)\s*(?=[0-9])"
    r"|(?<![a-z])(?:or|to|between|than|least|most|minus|plus|within|under|over|below|above|exceeds?)(?![a-z])"
)
"""What makes a number a range, a bound, or one of several."""


def read_measurements(text: str, unit: str, count: int) -> tuple[float, ...] | None:
    """`count` numbers in `unit` (MM or DEGREES), in the order of the text; None for any other number of them, ranges,
    bounds, denied ones and units of something else. A number without a unit has that of the next one, or else `unit`,
    if there is nothing but numbers."""
    if len(text) > LONGEST_ANSWER:
        return None
    plain = write_ascii_digits(text).lower()
    for pattern, name in _NAMES:
        plain = pattern.sub(name, plain)
    words = " ".join(re.findall(r"[^\W\d_]+", plain))
    if _BOUND.search(plain) or is_doubtful(words) or compile_phrases(DENIED).search(words):
        return None
    found = [(float(match["number"]), match["unit"] or "") for match in _ONE.finditer(plain)]
    if len(found) != count or _LOOSE.search(_ONE.sub(" ", plain)) or _FOREIGN.search(plain):
        return None
    values, last = [], unit if not any(own for _, own in found) else ""
    for number, own in reversed(found):
        last = own or last
        if (factor := _FACTORS[unit].get(last)) is None:
            return None
        values.append(number * factor)
    return tuple(reversed(values))
