"""Denial and doubt in words: where a sentence has them, and which choice is the opposite of which."""

from __future__ import annotations

import re
from functools import cache

from medvlm.tasks._phrases import DENIALS, DOUBTS, ENDINGS, IDIOMS, OPPOSITES, SEEN, list_words
from medvlm.tasks._tokens import scan_tokens

YES = {"yes": {"yes", "yeah", "yep", "yup"}, "sí": {"sí", "si"}, "si": {"sí", "si"}, "是": {"是", "是 的"}} | {
    word: {word} for word in ("oui", "ja", "sim", "sì", "有")
}
"""Choices that affirm, and the words that say so."""
NO = {"no": {"no", "nope"}, "否": {"否", "不 是"}, "不 是": {"不 是", "否"}, "没 有": {"没 有", "无", "没"}} | {
    "无": {"无", "没 有"},
    **{word: {word} for word in ("non", "nein", "não")},
}

_SUBJECTS = list_words(
    "it there this that these the i we they he she answer instead es hay el la los las esto se es gibt der die das il"
    " elle c ce le les lui 它 这 该 有 是"
)
_VERBS = list_words(
    "is are was were has have shows show seems appears lies see think exists es está son hay tiene muestra ist sind hat"
    " zeigt gibt est sont montre 是 有 为"
)


def split_phrases(text: str) -> list[str]:
    """As they are matched: words with one blank between them."""
    return [" ".join(token.form for token in scan_tokens(phrase)) for phrase in text.split(",")]


@cache
def compile_phrases(text: str) -> re.Pattern[str]:
    """Any of the phrases, the longest first, in words with one blank between them."""
    phrases = sorted({*split_phrases(text)}, key=len, reverse=True)
    each = (re.sub(r"^n t\b", lambda _: r"\w*n t", re.escape(phrase).replace(r"\ ", " ")) for phrase in phrases)
    return re.compile(rf"(?<!\S)(?:{'|'.join(each)})(?!\S)")


def is_doubtful(plain: str) -> bool:
    """Whether what is said is left open. plain: words with one blank between them."""
    return compile_phrases(DOUBTS).search(plain) is not None


def drop_idioms(plain: str) -> str:
    return compile_phrases(IDIOMS).sub("", plain)


def find_denials(plain: str) -> list[tuple[int, int]]:
    return [match.span() for match in compile_phrases(DENIALS).finditer(plain)]


def find_endings(plain: str) -> list[tuple[int, int]]:
    return [match.span() for match in compile_phrases(ENDINGS).finditer(plain)]


def denies_alone(plain: str) -> bool:
    """Whether it says no and nothing else, as `not seen` and `is absent` behind what they speak of."""
    rest = compile_phrases(f"{ENDINGS}, is, are, was, it, not at all, at all, {SEEN}, none, 没有, 否").sub("", plain)
    return not rest.strip() and bool(find_endings(plain) or find_denials(plain) or plain in NO or plain == "none")


def starts_anew(words: list[str]) -> bool:
    """Whether a part behind a comma is a clause of its own, so that a denial before it has ended."""
    return bool(words) and words[0] in _SUBJECTS and not _VERBS.isdisjoint(words)


_NOTHING = list_words(
    "normal healthy none clear unremarkable nothing no sano normal normales ninguno ninguna nada gesund unauffällig"
    " 正常"
) | {"no finding", "no findings", "no disease", "no abnormality", "正 常", "无 异 常", "sin hallazgos"}
_PREFIXES = ("un", "in", "im", "ir", "ab", "non", "dis", "a")


@cache
def _pairs() -> frozenset[tuple[str, str]]:
    found = set()
    for pair in OPPOSITES.split(","):
        one, other = (split_phrases(side)[0] for side in pair.split("/"))
        found |= {(one, other), (other, one)}
    return frozenset(found)


def find_opposite(form: str, forms: list[str]) -> str | None:
    """The only one of the choices that is right where this one is denied."""
    found = [
        other
        for other in forms
        if other != form and (_contradicts(form, other) or (len(forms) == 2 and other in _NOTHING))
    ]
    return found[0] if len(found) == 1 else None


def _contradicts(one: str, other: str) -> bool:
    if (one, other) in _pairs():
        return True
    shorter, longer = sorted((one, other), key=len)
    if not longer.endswith(shorter) and not longer.startswith(shorter):
        return False
    if longer.endswith(shorter):
        more = longer.removesuffix(shorter).strip()
        is_word = longer.removesuffix(shorter).endswith(" ") or not more.isascii()
        return compile_phrases(DENIALS).fullmatch(more) is not None if is_word else more in _PREFIXES
    rest = longer.removeprefix(shorter)
    return rest.startswith(" ") and denies_alone(rest.strip())
