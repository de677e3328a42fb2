"""Which one of several choices a text answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from medvlm.tasks._clauses import Clause, Sentence, split_sentences
from medvlm.tasks._negation import (
    NO,
    YES,
    compile_phrases,
    denies_alone,
    find_denials,
    find_endings,
    find_opposite,
    is_doubtful,
)
from medvlm.tasks._phrases import SEEN, list_words
from medvlm.tasks._words import LONGEST_ANSWER, normalise

_LABEL = re.compile(r"\(?(?:([A-Za-z])\s?(?:[):]\s*|\.\s+)|([0-9]{1,2})\s?[).:]\s+)(\S.*)", re.DOTALL)
_BEFORE = list_words("< > ≤ ≥ ≠ ± + - / : ^")
_BEHIND = re.compile(r"[+-]+|[±/:^%]")
_BETWEEN = frozenset(("", "and", "or", "y", "o", "und", "oder", "et", "ou", "e"))


@dataclass(frozen=True)
class Forms:
    """choice_of: by its normal form; None of a form that two choices have. pattern: the longest form at each word."""

    choice_of: dict[str, str | None]
    pattern: re.Pattern[str]
    yes: str = ""
    no: str = ""

    @property
    def own(self) -> list[str]:
        """One form of each choice."""
        return list({choice: form for form, choice in reversed(self.choice_of.items()) if choice is not None}.values())


@dataclass(frozen=True)
class Mention:
    """is_denied: None where a denial in an earlier part may reach it: `no nodule, effusion`."""

    choice: str | None
    is_denied: bool | None


@lru_cache(maxsize=1024)
def make_forms(choices: tuple[str, ...]) -> Forms:
    """A choice such as `A) pneumonia` may also be called by its letter or by what stands behind it, where no other
    choice has that form."""
    choices = tuple(dict.fromkeys(choices))
    found: dict[str, str | None] = {}
    for choice in choices:
        form = normalise(choice)
        if form:
            found[form] = None if form in found else choice
    labelled = {choice: match for choice in choices if (match := _LABEL.fullmatch(choice.strip()))}
    if len(labelled) == len(choices):
        short = [
            (normalise(match[part]), choice) for choice, match in labelled.items() for part in (1, 2, 3) if match[part]
        ]
        often = Counter(form for form, _ in short)
        found |= {form: choice for form, choice in short if often[form] == 1 and form not in found}
    longest = "|".join(map(re.escape, sorted(found, key=len, reverse=True))) or r"(?!)"
    yes, no = ([form for form in found if form in words] for words in (YES, NO))
    is_polar = len(yes) == len(no) == 1
    return Forms(
        found,
        re.compile(rf"(?<!\S)(?=({longest})(?!\S))"),
        yes[0] if is_polar else "",
        no[0] if is_polar else "",
    )


def read_choice(text: str, choices: tuple[str, ...]) -> str | None:
    """The choice that the text is, or the only one that it affirms as whole words; None otherwise.

    A choice inside a longer one does not count as named: `left lower zone` names `left lower`, not `left`. A choice
    that is denied is not named, and its opposite is, where there is one: `not normal` is `abnormal`. The same answer
    again and again is none.
    """
    if text.strip() in choices:
        return text.strip()
    if len(text) > LONGEST_ANSWER:
        return None
    forms = make_forms(choices)
    if (form := normalise(text)) in forms.choice_of:
        return forms.choice_of[form]
    sentences = _drop_questions(split_sentences(text), forms)
    if _repeats(sentences, forms):
        return None
    others = [form for form in forms.choice_of if form not in (forms.yes, forms.no)]
    if not forms.yes or any(f" {form} " in f" {each.plain} " for form in others for each in sentences):
        return _read_named(sentences, forms)
    said = _read_yes_or_no(sentences, forms)
    return None if said is None else forms.choice_of[forms.yes if said else forms.no]


# --- what is named ----------------------------------------------------------------------------------


def _read_named(sentences: Sequence[Sentence], forms: Forms) -> str | None:
    mentions: list[Mention] = []
    for sentence in sentences:
        found = [] if is_doubtful(sentence.plain) else _find_mentions(sentence, forms)
        if mentions and not found and denies_alone(sentence.plain):  # `pneumonia: no`
            mentions = [replace(each, is_denied=True) for each in mentions]
        mentions += found
    named = {mention.choice for mention in mentions if mention.is_denied is False}
    denied = {mention.choice for mention in mentions if mention.is_denied is not False}
    sure = {mention.choice for mention in mentions if mention.is_denied}
    if any(mention.is_denied is None and mention.choice in sure for mention in mentions):
        return None  # `left, not right, or right`
    if len(named) == 1 and not named & denied:
        return named.pop()
    if named or len(denied) != 1 or not any(mention.is_denied for mention in mentions):
        return None
    form = next((form for form in forms.own if forms.choice_of[form] in denied), "")
    opposite = find_opposite(form, forms.own)
    return forms.choice_of[opposite] if opposite else None


def _find_mentions(sentence: Sentence, forms: Forms) -> list[Mention]:
    mentions: list[Mention] = []
    reaches = False
    for part in sentence.parts:
        spans = list(_find_spans(part.plain, forms))
        free = [cue for cue in find_denials(part.plain) if not _overlaps(cue, spans)]
        reaches = reaches and not part.is_new
        if not spans:
            if mentions and denies_alone(part.plain):
                mentions = [replace(each, is_denied=True) for each in mentions]
            reaches = (reaches or bool(free)) and not denies_alone(part.plain)
            continue
        behind = [cue for cue in find_endings(part.plain) if not _overlaps(cue, spans)]
        last = max((start for start, _ in behind), default=-1)
        for choice, start, end in spans:
            is_before = any(cue_end <= start for _, cue_end in free)
            # A `not` between two mentions denies the second of them.
            is_behind = last >= end and last >= spans[-1][2]
            mentions.append(Mention(choice, is_before or is_behind or (None if reaches else False)))
        reaches = reaches or any(cue_end <= spans[-1][1] for _, cue_end in free)
    return mentions


def _find_spans(plain: str, forms: Forms) -> Iterator[tuple[str | None, int, int]]:
    """Choice, start and end of each that is named; not those that are part of another value, as 3 in > 3."""
    last = 0
    for match in forms.pattern.finditer(plain):
        start, end = match.span(1)
        if end <= last:
            continue
        last = end
        before, behind = plain[max(0, start - 9) : start].split()[-1:], plain[end : end + 9].split()[:1]
        if (before and before[0] in _BEFORE) or (behind and _BEHIND.fullmatch(behind[0])):
            yield None, start, end
        else:
            yield forms.choice_of[match[1]], start, end


def _overlaps(cue: tuple[int, int], spans: Sequence[tuple[str | None, int, int]]) -> bool:
    return any(cue[0] < end and start < cue[1] for _, start, end in spans)


# --- yes and no -------------------------------------------------------------------------------------


def _read_yes_or_no(sentences: Sequence[Sentence], forms: Forms) -> bool | None:
    """What is said by yes or no, else by `no ...`, `absent` and the like; None where neither is said, or both are."""
    strong: list[bool] = []
    weak: list[bool] = []
    for sentence in sentences:
        if is_doubtful(sentence.plain):
            if not strong:
                return None
            continue  # `Yes. The cause is unknown.`
        for part in sentence.parts:
            said, is_strong = _read_part(part, forms)
            if said is not None:
                if is_strong and said and False in weak and not strong:
                    return None  # `No effusion, yes`
                (strong if is_strong else weak).append(said)
    for found in (strong, weak):
        if found:
            return found[0] if len(set(found)) == 1 else None
    return None


def _read_part(part: Clause, forms: Forms) -> tuple[bool | None, bool]:
    """What is said, if anything, and whether by a yes or no of its own."""
    words = part.plain
    yes, no = YES[forms.yes], NO[forms.no]
    own = sorted([(word, True) for word in yes] + [(word, False) for word in no], key=lambda each: -len(each[0]))
    start = next((each for each in own if f"{words} ".startswith(f"{each[0]} ")), None)
    end = next((each for each in own if f" {words}".endswith(f" {each[0]}")), None)
    said = {end[1]} if end else set()
    if start:
        rest = words.removeprefix(start[0]).split()
        if start[1] or not rest or rest[0] in _AFTER_NO or rest[0] in yes:
            said.add(start[1])
    inner = next((word for word in yes if word.isascii() and f" {word} " in f" {words} "), "")
    if inner:
        before = words[: f" {words} ".index(f" {inner} ")]
        if find_denials(before):
            return (False, True) if said <= {True} else (None, True)
        said.add(True)
    if len(said) == 2:
        return None, True
    if said == {False} and end and find_denials(words.removesuffix(end[0])) and not start:
        return None, True  # `not no`
    if said:
        return said.pop(), True
    return _read_presence(words, no), False


_AFTER_NO = list_words("there it this that the i we they he she is are not hay es está se it's")


def _read_presence(words: str, no: set[str]) -> bool | None:
    is_denied = bool(find_denials(words))
    if re.search(r"(?<!\S)(?:absent|ausente)(?!\S)", words):
        others = [span for span in find_denials(words) if words[slice(*span)] not in ("absent", "ausente")]
        return bool(others)
    if re.search(r"(?<!\S)(?:present|presente)(?!\S)", words):
        return not is_denied
    if is_denied and compile_phrases(SEEN).search(words):
        return False
    if re.search(r"(?<!\S)(?:not|n t)$", words) or words in ("none", "negative", "nothing"):
        return False
    if any(f" {word} " in f" {words} " for word in no):
        return False
    return None


# --- questions and repetition -----------------------------------------------------------------------


_ASKING = list_words("is are was were do does did has have which what where who how can could should or")


def _drop_questions(sentences: list[Sentence], forms: Forms) -> list[Sentence]:
    """Without the question that the answer repeats, where more than that is said."""
    kept = [each for each in sentences if not (each.asks and _is_question(each, forms))]
    return kept or sentences


def _is_question(sentence: Sentence, forms: Forms) -> bool:
    first = sentence.plain.split()[:1]
    return bool(first and first[0] in _ASKING) or len({choice for choice, _, _ in _spans(sentence, forms)}) > 1


def _spans(sentence: Sentence, forms: Forms) -> Iterator[tuple[str | None, int, int]]:
    for part in sentence.parts:
        yield from _find_spans(part.plain, forms)


def _repeats(sentences: Sequence[Sentence], forms: Forms) -> bool:
    """Whether a choice is said twice in the same words, or twice in a row."""
    seen = set()
    for part in (part for sentence in sentences for part in sentence.parts):
        spans = list(_find_spans(part.plain, forms))
        if spans and part.plain in seen:
            return True
        seen.add(part.plain)
        for one, other in pairwise(spans):
            if one[0] == other[0] and part.plain[one[2] : other[1]].strip() in _BETWEEN:
                return True
    return False
