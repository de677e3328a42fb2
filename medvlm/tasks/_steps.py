"""Which steps of a reference a rationale says, by a rule of words; nothing is downloaded and no model judges.

A sentence of the rationale says a sentence of a step if it has more than half of its words, both or neither of them
deny, and they do not name opposite sides or directions. A step is said if the sentences of it that are said hold more
than half of its words. Words without a meaning of their own (`the`, `shows`) do not count, nor does a plural s.

The rule sees no synonyms: an effusion that is called fluid is missed. It is strict where a word decides (`no`, `left`)
and lenient in how things are put.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medvlm.tasks._negation import denies_alone, find_denials, find_endings
from medvlm.tasks._phrases import list_words
from medvlm.tasks._words import words

SHARE = 0.5
"""More than this share of the words of a sentence, and of a step, must be said."""
MOST_WORDS = 30
"""A sentence with more of them, and more than twice those of what it should say, is a list of words, which would say
everything."""
EMPTY = list_words(
    "a an the this that these those it its there here is are was were be been being has have had do does did can could"
    " may might will would should of in on at to from by with for as and or but so if then than which who what where"
    " when while i we you they he she his her their our my also very more most some any such both each other into over"
    " within about because since thus therefore hence however image picture photo scan show shown seen see visible"
    " appear appears present noted identified observed consistent suggest suggests indicate indicates likely step first"
    " second third next finally answer question option based given no not without"
)
_PAIRS = """left right, upper lower, superior inferior, anterior posterior, medial lateral, proximal distal, increased
decreased, high low, benign malignant, normal abnormal, acute chronic"""
_OPPOSITES = {
    word: other for pair in _PAIRS.split(",") for one, two in [pair.split()] for word, other in ((one, two), (two, one))
}
_BREAK = re.compile(
    r"(?<!\b\w)[.;!?]+(?=\s|$)|\n|[。；！？]"
    r"|,\s+(?:and\s+|but\s+)?(?=no\b|without\b)|\s(?:and|but)\s+(?=no\b)|\s(?=without\b)",
    re.IGNORECASE,
)
"""Between sentences, and before what is denied, which does not reach back."""
_MARKER = re.compile(r"^\W*(?:(?:step|option)\s+)?(?:\d{1,2}|[A-H])[.):]\s+|^[\W_]+", re.IGNORECASE)


@dataclass(frozen=True)
class Sentence:
    words: frozenset[str]
    denies: bool


@dataclass(frozen=True)
class StepsSaid:
    """path: names of the steps that are said, in the order in which they are said. num_right: sentences of the
    rationale that say a step, or most of whose words are of one. num_sentences: all; one that is repeated counts
    once."""

    path: tuple[str, ...]
    num_right: int
    num_sentences: int


def find_steps(rationale: str, steps: Mapping[str, str]) -> StepsSaid:
    """steps: name -> text."""
    spoken = list(dict.fromkeys(split_sentences(rationale)))
    references = {name: split_sentences(text) for name, text in steps.items()}
    places = {name: place for name, parts in references.items() if (place := _find_place(spoken, parts)) is not None}
    right = [
        each
        for each in spoken
        if any(_says_part(each, part) or _says(part, each) for parts in references.values() for part in parts)
    ]
    path = sorted(places, key=lambda name: places[name])  # equal places: in the order of the steps
    return StepsSaid(tuple(path), len(right), len(spoken))


def find_f1(rationale: str, steps: Mapping[str, str], free: int = 0) -> float:
    """F1 of steps and sentences, in [0, 1]. Recall is the longest run of steps in the order of the reference, over
    their number; precision the share of sentences that say a step, without `free` ones that need not."""
    said, names = find_steps(rationale, steps), list(steps)
    in_order = count_rising([names.index(name) for name in said.path])
    if not in_order:
        return 0.0
    recall, precision = in_order / len(names), min(1.0, said.num_right / max(1, said.num_sentences - free))
    return 2 * recall * precision / (recall + precision)


def count_rising(places: Sequence[int]) -> int:
    """The length of the longest rising subsequence."""
    longest: list[int] = []
    for at, place in enumerate(places):
        longest.append(1 + max((longest[before] for before in range(at) if places[before] < place), default=0))
    return max(longest, default=0)


@lru_cache(maxsize=4096)
def split_sentences(text: str) -> tuple[Sentence, ...]:
    """Sentences, or parts of them, that have words with a meaning."""
    found = [_read_sentence(_MARKER.sub("", part.strip())) for part in _BREAK.split(text)]
    return tuple(sentence for sentence in found if sentence.words)


def _read_sentence(text: str) -> Sentence:
    said = words(text)
    plain = " ".join(said)
    denies = bool(find_denials(plain) or find_endings(plain) or denies_alone(plain))
    return Sentence(frozenset(map(_drop_plural, said)) - EMPTY, denies)


def _drop_plural(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _find_place(spoken: list[Sentence], parts: tuple[Sentence, ...]) -> int | None:
    """The first sentence that says a part of a step; None if too little of the step is said."""
    places = [next((at for at, each in enumerate(spoken) if _says_part(each, part)), None) for part in parts]
    total = sum(len(part.words) for part in parts)
    said = sum(len(part.words) for part, place in zip(parts, places, strict=True) if place is not None)
    found = [place for place in places if place is not None]
    return min(found) if found and said > SHARE * total else None


def _says_part(sentence: Sentence, part: Sentence) -> bool:
    return len(sentence.words) <= max(MOST_WORDS, 2 * len(part.words)) and _says(sentence, part)


def _says(sentence: Sentence, part: Sentence) -> bool:
    """Whether a sentence says what another one does."""
    if sentence.denies != part.denies or len(sentence.words & part.words) <= SHARE * len(part.words):
        return False
    missing = part.words - sentence.words
    return not any(_OPPOSITES.get(word) in sentence.words - part.words for word in missing)
