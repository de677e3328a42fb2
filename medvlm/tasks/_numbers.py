"""Numbers in words: `twenty-one`, `two dozen`, `a hundred and three`, and those of Chinese."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.tasks._phrases import list_words

_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = {word: n for n, word in enumerate(_ONES.split())} | {word: 10 * n for n, word in enumerate(_TENS.split(), 2)}
SMALL |= {"fourty": 40}
LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6}
DOZENS = frozenset({"dozen", "dozens"})
_PRONOUN_AFTER = list_words("no this that the these which each every any some another last first other either")
_PRONOUN_BEFORE = list_words(
    "can cannot could may might must should would will of who that another needs sees knows half third quarter"
)
_DIGITS_ZH = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
_PLACES_ZH = {"十": 10, "百": 100, "千": 1000, "万": 10_000, "萬": 10_000}
NUMERALS_ZH = frozenset({*_DIGITS_ZH, *_PLACES_ZH})


def read_number_words(words: Sequence[str], at: int) -> tuple[int, int] | None:
    """The number that begins at a word and where it ends; None where none does. words: in lower case.

    `one` as a pronoun is none: `no one can say`, `one of them`.
    """
    word = words[at]
    if word in ("a", "half") and (found := _read_article(words, at)):
        return found
    if word not in SMALL or (word == "one" and is_pronoun(words, at)):
        return None
    total, part, end = 0, SMALL[word], at + 1
    while end < len(words):
        word = words[end]
        if word in SMALL and (_fits(part, SMALL[word]) or (part == 0 < min(total, SMALL[word]))):
            part, end = part + SMALL[word], end + 1
        elif word == "hundred" and 0 < part < 100:
            part, end = part * 100, end + 1
        elif word in LARGE and word != "hundred" and part:
            total, part, end = total + part * LARGE[word], 0, end + 1
        elif word in DOZENS and part and not total:
            return 12 * part, end + 1
        elif word == "and" and (part % 100 == 0) and (part or total) and words[end + 1 : end + 2] != ["one"]:
            if end + 1 < len(words) and words[end + 1] in SMALL:
                end += 1
            else:
                break
        elif word == "and" and (part % 100 == 0) and (part or total):
            end += 1
        else:
            break
    return total + part, end


def is_pronoun(words: Sequence[str], at: int) -> bool:
    """Whether the `one` there stands for something and counts nothing."""
    return (at > 0 and words[at - 1] in _PRONOUN_AFTER) or (at + 1 < len(words) and words[at + 1] in _PRONOUN_BEFORE)


def _fits(part: int, more: int) -> bool:
    """Whether a smaller number may follow: twenty-one, a hundred thirty, but not twenty eleven."""
    if part == 0 or more == 0:
        return False
    if part % 100 == 0:
        return more < 100
    return part % 10 == 0 and part % 100 >= 20 and more < 10


def _read_article(words: Sequence[str], at: int) -> tuple[int, int] | None:
    """`a hundred`, `a dozen`, `half a dozen`."""
    rest = tuple(words[at : at + 3])
    if rest in (("half", "a", "dozen"), ("a", "half", "dozen")):
        return 6, at + 3
    if rest[:2] == ("a", "dozen"):
        return 12, at + 2
    if rest[:1] == ("a",) and len(rest) > 1 and rest[1] in LARGE:
        found = read_number_words(["one", *words[at + 1 :]], 0)
        return found and (found[0], at + found[1])
    return None


def read_chinese_number(text: str) -> int | None:
    """0 to 99,999,999 in Chinese numerals, such as 二十一 or 两百零三; None for anything else."""
    if not text or any(c not in NUMERALS_ZH for c in text):
        return None
    if not any(c in _PLACES_ZH for c in text):
        return _DIGITS_ZH[text] if len(text) == 1 else None
    total, part, digit, last = 0, 0, None, 10**9
    for c in text:
        if c in _DIGITS_ZH:
            if digit:
                return None
            digit = _DIGITS_ZH[c]
            continue
        place = _PLACES_ZH[c]
        if place == 10_000:
            total, part, last = (part + (digit or 0)) * place, 0, 10_000
        elif place >= last or (digit is None and place != 10):
            return None
        else:
            part, last = part + (1 if digit is None else digit) * place, place
        digit = None
    return total + part + (digit or 0)
