"""Relations in words, in the languages of `_phrases.py`: `less than 3 cm` is `< 3 cm`, `3 or more` is `≥ 3`."""

from __future__ import annotations

import re
from functools import cache

from medvlm.tasks._phrases import list_words
from medvlm.tasks._tokens import UNITS, scan_tokens

PAUSE = ","
"""Stands where there is punctuation between two words: `no, less than 3` does not say `no less than 3`."""
_BEFORE = {
    "<": """less than, fewer than, smaller than, lower than, shorter than, younger than, below, under, inferior to,
        menos de, menos que, menor de, menor que, menor a, inferior a, debajo de, weniger als, kleiner als, kürzer als,
        jünger als, unter, moins de, moins que, inférieur à, inférieure à, menor do que, abaixo de, meno di, minore di,
        inferiore a, 小于, 少于, 低于, 不到, 不足""",
    ">": """more than, greater than, larger than, bigger than, higher than, longer than, older than, above, over,
        exceeding, exceeds, beyond, in excess of, superior to, más de, mas de, más que, mayor de, mayor que, mayor a,
        superior a, mehr als, größer als, grösser als, länger als, älter als, über, plus de, plus que, supérieur à,
        supérieure à, mais de, mais que, maior que, maior do que, acima de, più di, maggiore di, superiore a, oltre,
        大于, 多于, 高于, 超过, 超過""",
    "≥": """at least, no less than, not less than, no fewer than, not fewer than, no smaller than, not smaller than,
        greater than or equal to, more than or equal to, equal to or greater than, equal to or more than, minimum of,
        not below, not under, al menos, por lo menos, no menos de, como mínimo, mayor o igual a, mayor o igual que,
        mindestens, wenigstens, nicht weniger als, größer oder gleich, größer gleich, au moins, pas moins de,
        supérieur ou égal à, pelo menos, no mínimo, não menos de, maior ou igual a, almeno, non meno di, 至少,
        不少于, 不小于, 不低于, 大于等于, 大于或等于""",
    "≤": """at most, up to, no more than, not more than, no greater than, not greater than, no larger than,
        not larger than, not over, not above, not exceeding, does not exceed, less than or equal to,
        fewer than or equal to, equal to or less than, maximum of, como máximo, no más de, a lo sumo, menor o igual a,
        menor o igual que, hasta, höchstens, maximal, bis zu, nicht mehr als, nicht über, kleiner oder gleich,
        kleiner gleich, au plus, pas plus de, au maximum, jusqu'à, inférieur ou égal à, no máximo, não mais de, até,
        menor ou igual a, al massimo, non più di, fino a, 至多, 最多, 不超过, 不多于, 不大于, 小于等于, 小于或等于""",
}
_BEHIND = {
    "≥": """or more, or greater, or larger, or bigger, or above, or over, or older, or longer, or higher, and above,
        and over, and more, o más, o mas, o mayor, oder mehr, oder größer, oder älter, ou plus, ou mais, o più,
        或以上, 及以上, 以上""",
    "≤": """or less, or fewer, or smaller, or below, or under, or younger, or shorter, or lower, and below, and under,
        o menos, o menor, oder weniger, oder kleiner, ou moins, ou menos, o meno, 或以下, 及以下, 以下""",
}
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?%?")
"""Not `below the 7th rib`."""
_PLACES = list_words("over under above below über unter beyond oltre")
"""Between two numbers they are no relations: `120 over 80`."""
_UNITS = frozenset(UNITS.split("|")) | list_words(
    "percent years year months month weeks week days day hours hour minutes minute centimeters centimetres millimeters"
    " millimetres centimeter centimetre millimeter millimetre jahre monate tage wochen años meses días ans mois jours"
    " anos dias anni mesi giorni 岁"
)
_UNITS_ZH = frozenset((("厘", "米"), ("毫", "米"), ("公", "分"), ("个", "月"), ("毫", "升")))


def write_relations(words: list[str]) -> list[str]:
    """words: in lower case, with numbers as digits and pauses, which are dropped. The sign replaces the words and
    stands before the number."""
    found, at = list[str](), 0
    while at < len(words):
        if not _is_number(words[at]):
            found.append(words[at])
            at += 1
            continue
        sign, length = _find_behind(words, at + 1)
        before = _find_before(found)
        if before and not length:
            del found[-before[1] :]
            found.append(before[0])
        if length and not before:
            found.append(sign)
            end = at + 1 + _measure_unit(words, at + 1)
            found += words[at:end]
            at = end + length
            continue
        found.append(words[at])
        at += 1
    return [word for word in found if word != PAUSE]


def _find_before(words: list[str]) -> tuple[str, int] | None:
    """The sign of the longest phrase that the words end with, and how many words that is."""
    for length in range(min(len(words), _longest()), 0, -1):
        sign = _phrases(before=True).get(tuple(words[-length:]))
        if sign:
            is_place = length == 1 and words[-1] in _PLACES and _is_number((words[-2:-1] or [""])[0])
            return None if is_place else (sign, length)
    return None


def _find_behind(words: list[str], at: int) -> tuple[str, int]:
    """The sign of the phrase behind a number and its unit, and how many words that is; 0 if there is none."""
    at += _measure_unit(words, at)
    for length in range(3, 0, -1):
        sign = _phrases(before=False).get(tuple(words[at : at + length]))
        if sign and words[at + length : at + length + 1] not in (["than"], ["als"], ["que"], ["de"], ["di"]):
            return sign, length
    return "", 0


def _measure_unit(words: list[str], at: int) -> int:
    """How many words the unit there has; 0 if there is none."""
    if tuple(words[at : at + 2]) in _UNITS_ZH:
        return 2
    return int(at < len(words) and words[at] in _UNITS)


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None


@cache
def _phrases(before: bool) -> dict[tuple[str, ...], str]:
    listed = _BEFORE if before else _BEHIND
    return {
        tuple(token.form for token in scan_tokens(phrase)): sign
        for sign, phrases in listed.items()
        for phrase in phrases.split(",")
    }


@cache
def _longest() -> int:
    return max(map(len, _phrases(before=True)))
