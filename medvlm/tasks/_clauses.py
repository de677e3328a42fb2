"""An answer in sentences, and each in the parts between its commas, dashes, brackets and words such as `but`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from medvlm.tasks._negation import drop_idioms, split_phrases, starts_anew
from medvlm.tasks._phrases import TURNS, list_words
from medvlm.tasks._tokens import Token, prepare_text, scan_tokens
from medvlm.tasks._words import is_article, write_values

_HARD = re.compile(r"[.;!?:\n。؟؛।]")
_SOFT = re.compile(r"[,،()\[\]{}]|\s-\s")
_LETTER_VERBS = list_words("is are was because since as and or but not seems looks would fits matches")


@dataclass(frozen=True)
class Clause:
    """plain: its words with one blank between them, without articles and idioms. is_new: a denial before it does not
    reach it."""

    plain: str
    is_new: bool


@dataclass(frozen=True)
class Sentence:
    """asks: it ends with a question mark."""

    parts: tuple[Clause, ...]
    asks: bool

    @property
    def plain(self) -> str:
        return " ".join(part.plain for part in self.parts)


def split_sentences(text: str) -> list[Sentence]:
    tokens = scan_tokens(text)
    ends = prepare_text(text).rstrip()[-1:]
    sentences: list[Sentence] = []
    own: list[list[Token]] = [[]]
    for token in tokens:
        if own[-1] and _HARD.search(token.gap):
            sentences.append(_make_sentence(own, "?" in token.gap or "؟" in token.gap))
            own = [[]]
        elif own[-1] and _SOFT.search(token.gap):
            own.append([])
        own[-1].append(token)
    if own[-1]:
        sentences.append(_make_sentence(own, ends in ("?", "؟")))
    return sentences


def _make_sentence(parts: list[list[Token]], asks: bool) -> Sentence:
    made = [each for number, tokens in enumerate(parts) for each in _split_at_turns(tokens, number == 0)]
    return Sentence(tuple(part for part in made if part.plain), asks)


def _split_at_turns(tokens: list[Token], is_first: bool) -> list[Clause]:
    whole = [token.form for token in tokens]
    kept = [token for at, token in enumerate(tokens) if not _says_nothing(tokens, whole, at, is_first)]
    pieces: list[list[str]] = [[]]
    is_new = [is_first or starts_anew(whole)]
    plain = drop_idioms(" ".join(write_values(kept)))
    forms = plain.replace("anything but", "not").split()
    at = 0
    while at < len(forms):
        turn = next((turn for turn in _turns().get(forms[at], ()) if tuple(forms[at : at + len(turn)]) == turn), None)
        if turn is not None and len(forms) > len(turn):
            pieces.append([])
            is_new.append(True)
        else:
            pieces[-1].append(forms[at])
        at += len(turn) if turn else 1
    return [Clause(" ".join(piece), new) for piece, new in zip(pieces, is_new, strict=True)]


@cache
def _turns() -> dict[str, list[tuple[str, ...]]]:
    """By their first word, the longest first."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for turn in sorted((tuple(phrase.split()) for phrase in split_phrases(TURNS)), key=len, reverse=True):
        found.setdefault(turn[0], []).append(turn)
    return found


def _says_nothing(tokens: list[Token], forms: list[str], at: int, is_first: bool) -> bool:
    """Whether it is an article, and not the name of a choice: in `A lesion is seen` and not in `the answer is A`."""
    if forms[at] == "i" and at + 1 < len(tokens):  # the pronoun, and not the first of I, II, III
        return forms[at + 1] in (
            "think",
            "am",
            "believe",
            "would",
            "see",
            "cannot",
            "can",
            "do",
            "m",
            "d",
            "have",
            "say",
        )
    if not is_article(forms, at):
        return False
    if forms[at] != "a" or at + 1 == len(tokens):
        return True
    is_capital = tokens[at].raw == "A" and any(token.raw.islower() for token in tokens)
    return not (is_capital and (at > 0 or not is_first)) and forms[at + 1] not in _LETTER_VERBS
