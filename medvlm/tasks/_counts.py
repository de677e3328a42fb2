"""Which whole number a text says."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from medvlm.tasks._negation import compile_phrases, is_doubtful
from medvlm.tasks._numbers import DOZENS, LARGE, NUMERALS_ZH, SMALL, read_chinese_number, read_number_words
from medvlm.tasks._phrases import COUNT_DOUBTS, NOTHING, RELATIONS, list_words
from medvlm.tasks._tokens import UNITS, write_ascii_digits
from medvlm.tasks._words import LONGEST_ANSWER

_DASHES = str.maketrans({**dict.fromkeys("‐‑‒–−﹣－⁃", "-"), "—": " - ", "―": " - ", "，": ",", "．": ".", "％": "%"})
_ZH_UNITS = "厘米|毫米|公分|度|年|月|日|岁|号|倍|分之|%|％"
_COUNTERS = "个個只枚颗顆粒处處条條片块塊张張例名位根次支份对對"
# Ranges, decimals and signs (3-4, 3.5, -3) are caught whole, so that they are refused and not read in part.
_NUMBER = re.compile(
    r"(?<![0-9])(?P<digits>[-+#]?(?:[0-9]+|\.[0-9]+)(?:[.,/:^'-][0-9]+)*(?:\+(?![0-9]))?)(?P<unit>[^\W\d]*)"
    r"|(?P<word>[a-z]+(?:-[a-z]+)*)"
    rf"|(?P<zh>[{''.join(sorted(NUMERALS_ZH))}]+)(?P<behind>\S?)"
)
_SPACED = re.compile(r"[^\W\d_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""A letter of a script with blanks between words: a digit that touches one is part of a name, as in T2."""
_EACH = re.compile(r"\b(?:each|every|apiece|cada|jeweils|chaque|ciascuno|ciascuna)\b|[每各]")
_AS_PART = list_words(
    f"point half halves third thirds quarter quarters percent per-cent per fold times {UNITS.replace('|', ' ')}"
)
_CHAINED = list_words("and to or")


def read_count(text: str) -> int | None:
    """The number that the text says; None if it says none, several that differ, or one twice in a row.

    Read: digits (also `1,024`, `3.0` and those of other scripts), English number words (`twenty-one`, `two dozen`),
    Chinese numerals, and words that there is none (`no cells`, `none`). Not read: ranges, fractions, signed numbers,
    percentages, lengths, bounds (`more than 3`, `> 3`, `3+`), parts of a total (`one on each side`), what is denied
    (`not 3`), digits that touch letters (`T2`, `3cm`), numbers of more than nine digits.
    """
    if len(text) > LONGEST_ANSWER:
        return None
    plain = write_ascii_digits(text.translate(_DASHES)).lower()
    found: int | None = None
    last_end, last = -1, ""
    for number, start, end in _find_numbers(plain):
        if number is None or found not in (None, number):
            return None
        if found is not None and not re.search(r"\w", plain[last_end:start]) and plain[start:end] == last:
            return None  # the same again and again
        found, last_end, last = number, end, plain[start:end]
    if found and _EACH.search(plain):  # of how many, it does not say
        return None
    return found if found is not None else _read_nothing(plain)


def _find_numbers(plain: str) -> list[tuple[int | None, int, int]]:
    """Number (None for one that is not whole, or bounded), start and end of each."""
    found: list[tuple[int | None, int, int]] = []
    matches = list(_NUMBER.finditer(plain))
    words = [match["word"] or "" for match in matches]
    at = 0
    while at < len(matches):
        match = matches[at]
        start, end, step = match.start(), match.end(), 1
        if match["word"]:
            step, number = _read_words(matches, at)
            if step == 0:
                at += 1
                continue
            end = matches[at + step - 1].end()
        elif match["zh"]:
            number = _read_chinese(match)
            if number is None:
                at += 1
                continue
            end = match.end("zh")
        elif _touches_letters(plain, match):
            at += 1
            continue
        else:
            number = _read_digits(match["digits"])
        behind = words[at + step] if at + step < len(words) else ""
        if behind in UNITS.split("|") and not plain[end : matches[at + step].start()].strip():
            at += step + 1  # a length, and no count
            continue
        is_whole = number is not None and not _is_bounded(plain, start, end)
        found.append((number if is_whole and behind not in _AS_PART else None, start, end))
        at += step
    return found


def _read_words(matches: list[re.Match[str]], at: int) -> tuple[int, int | None]:
    """How many matches are a number in words, 0 for none, and the number."""
    chain: list[str] = []
    owner: list[int] = []
    for number, match in enumerate(matches[at : at + 12]):
        parts = (match["word"] or "").split("-")
        if parts == [""] or (chain and "\n" in match.string[matches[at + number - 1].end() : match.start()]):
            break
        chain += parts
        owner += [number] * len(parts)
        if number and re.search(r"[^\s]", match.string[matches[at + number - 1].end() : match.start()]):
            chain, owner = chain[: -len(parts)], owner[: -len(parts)]
            break
    word = matches[at]["word"]
    if at and matches[at - 1]["word"] and not matches[at].string[matches[at - 1].end() : matches[at].start()].strip():
        chain, owner = [matches[at - 1]["word"], *chain], [-1, *owner]
    first = owner.index(0)
    read = read_number_words(chain, first)
    if read is None:
        return (1, None) if word in LARGE or word in DOZENS else (0, None)
    number, stop = read
    last = owner[stop - 1]
    if stop < len(owner) and owner[stop] == last:
        return 0, None  # `two-sided`
    is_more = chain[stop : stop + 1] and (chain[stop] in LARGE or chain[stop] in DOZENS or chain[stop] in SMALL)
    before = chain[first - 1] if first else ""
    is_signed = before in ("minus", "negative")
    return last + 1, None if is_more or is_signed else number


def _read_digits(digits: str) -> int | None:
    if re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.0{1,2})?", digits) and digits[0] != "0":
        digits = digits.partition(".")[0].replace(",", "")
    elif re.fullmatch(r"[0-9]+\.0{1,2}", digits):
        digits = digits.partition(".")[0]
    return int(digits) if digits.isdecimal() and len(digits) <= 9 else None


def _touches_letters(plain: str, match: re.Match[str]) -> bool:
    before = plain[match.start() - 1] if match.start() else ""
    if match["digits"][0] in "-+" and before and not before.isspace() and before not in "([:=":
        return True
    if _SPACED.match(before or " ") or before == "_" or (before and unicodedata.category(before) == "No"):
        return True
    unit = match["unit"]
    return (bool(unit) and (bool(_SPACED.match(unit)) or unit[0] == "_" or re.match(_ZH_UNITS, unit) is not None)) or (
        plain[match.end() :].startswith("-") and plain[match.end() + 1 : match.end() + 2].isalpha()
    )


def _read_chinese(match: re.Match[str]) -> int | None:
    """None where the characters are part of a word, as in 一些."""
    behind = match["behind"]
    before = match.string[match.start() - 1] if match.start() else ""
    is_said = behind in _COUNTERS if behind else True
    if behind and not behind.isalnum():
        is_said = True
    if not behind or not behind.isalnum():
        is_said = not before or not before.isalnum() or before in "是为有共到出约"
    return read_chinese_number(match["zh"]) if is_said else None


def _is_bounded(plain: str, start: int, end: int) -> bool:
    """Whether it is said to be more or less than that, a share, or not that."""
    before, behind = plain[max(0, start - 40) : start], plain[end : end + 40]
    if re.search(r"^\s*-\s*$|[<>≤≥≠±/×^]=?\s*$|[-]\s+$(?<=\d\s-\s)|\d\s*[-+]\s*$", before):
        return True
    if re.match(r"\s*(?:%|‰|/|×|\^|\+(?!\s*[a-z])|[-+]\s*\d|°)", behind):
        return True
    return _relations(True).search(before) is not None or _relations(False).match(behind) is not None


@cache
def _relations(is_before: bool) -> re.Pattern[str]:
    before, behind = (
        "|".join(re.escape(" ".join(phrase.split())).replace("\\ ", r"\s+") for phrase in part.split(","))
        for part in RELATIONS.split("|")
    )
    if is_before:
        return re.compile(
            rf"(?:(?<![a-z])(?:{before})\s*(?:the\s+|be\s+)?|不是|不到|超过|少于|多于|至少|最多|第|负)\s*$"
        )
    return re.compile(rf"\s*(?:{behind})(?![a-z])|\s*(?:以上|以下|多个)")


def _read_nothing(plain: str) -> int | None:
    """0 where it is said that there are none. plain: without a number."""
    words = " ".join(re.findall(r"[^\W\d_]+|\d+", re.sub(r"([\u3400-\u9fff])", r" \1 ", plain)))
    if is_doubtful(words) or compile_phrases(COUNT_DOUBTS).search(words):
        return None
    if words in ("no", "not any", "not a single", "absent", "nein", "non"):
        return 0
    return 0 if compile_phrases(NOTHING).search(words) else None
