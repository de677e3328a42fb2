"""Where a sentence mentions a finding, and whether it is present, absent or uncertain there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from medvlm.tasks.chest import cues
from medvlm.tasks.chest.sentences import Span, compile_words, find_spans, has_any, mask, split_clauses
from medvlm.tasks.chest.words import (
    ANATOMY,
    DENIED_BY_NORMAL,
    ENLARGED_PARTS,
    FINDINGS,
    NO_FINDING,
    NOT_ANATOMY,
    NOT_FINDINGS,
)

Status = Literal["present", "absent", "uncertain"]


@dataclass(frozen=True)
class Mention:
    """name: the class. span: in the plain words of the sentence."""

    name: str
    span: Span
    status: Status


def find_mentions(plain: str) -> list[Mention]:
    """All mentions in a sentence of plain words, in order; none in a sentence that is about others or about a disease
    as such."""
    if has_any(cues.NOT_OF_NOW, plain):
        return []
    named = sorted(_find_names(plain), key=lambda each: each[1])
    found: list[Mention] = []
    for start, end in split_clauses(plain):
        own = [(name, span) for name, span in named if start <= span[0] < end]
        found += _judge(plain, (start, end), own)
        found += _find_parts(plain, (start, end), [span for _, span in own])
    found += _find_nothing(plain, [span for _, span in named])
    return sorted(_doubt_alternatives(plain, found), key=lambda each: each.span)


def _find_names(plain: str) -> Iterator[tuple[str, Span]]:
    for name, phrases in FINDINGS.items():
        others = find_spans(NOT_FINDINGS.get(name, "-"), plain)
        for span in find_spans(phrases, plain):
            if not any(start <= span[0] < end for start, end in others):
                yield name, span
    for _, end in find_spans(cues.READINGS, plain):
        for start, stop in find_spans(cues.VIRUSES, plain, end):
            if len(plain[end:start].split()) <= 2 and "pneumonia" not in plain[stop : stop + 12]:
                yield "pneumonia", (start, stop)


# --- denied, doubted, over ------------------------------------------------------------------------


def _judge(plain: str, clause: Span, named: list[tuple[str, Span]]) -> Iterator[Mention]:
    start, end = clause
    text = plain[:end]
    doubtless = mask(cues.DOUBTFUL_ENDINGS, mask(cues.DOUBTS, mask(cues.IDIOMS, text)))
    if has_any(cues.PARTIAL, text[start:]):
        doubtless = mask(cues.ENDED, doubtless)
    last = max((span[1] for _, span in named), default=0)
    for name, span in named:
        if name not in cues.LASTING and _is_right_behind(cues.PAST, doubtless, start, span):
            continue
        if _is_denied(doubtless, start, span):
            yield Mention(name, span, "absent")
        elif _is_doubted(text, start, span, last):
            yield Mention(name, span, "uncertain")
        else:
            yield Mention(name, span, "present")


def _is_right_behind(phrases: str, text: str, start: int, span: Span) -> bool:
    """Whether one of the phrases stands before it with at most two words between."""
    return any(
        len(between) <= 2 and not has_any(f"{cues.PLACES}, {cues.JOINTS}", " ".join(between))
        for _, end in find_spans(phrases, text[: span[0]], start)
        for between in [text[end : span[0]].split()]
    )


def _is_denied(text: str, start: int, span: Span) -> bool:
    before = find_spans(cues.DENIALS, text, start, span[0])
    if before and not _is_undone(text, before[-1]):
        return True
    behind = [each for each in find_spans(cues.ENDINGS, text, span[1]) if _reaches(text, span, each)]
    return _is_right_behind(cues.GONE, text, start, span) or any(not _is_undone(text, each) for each in behind)


def _reaches(text: str, span: Span, ending: Span) -> bool:
    """Whether what is said at the end is said of it: of each item of a list, but not of what a comma sets apart."""
    between = text[span[1] : ending[0]]
    return "," not in between or has_any("and, or", between)


def _is_undone(text: str, span: Span) -> bool:
    """Whether a denial is denied itself: `not without`, `is not absent`."""
    return has_any("no, not, never", " ".join(text[: span[0]].split()[-1:]))


def _is_doubted(text: str, start: int, span: Span, last: int) -> bool:
    """last: the end of the last finding of the clause. A doubt between two findings is about the second."""
    if "?" in text[start:] or find_spans(cues.DOUBTS, text, start, span[0]):
        return True
    return any(_reaches(text, span, each) for each in find_spans(cues.DOUBTFUL_ENDINGS, text, last))


def _doubt_alternatives(plain: str, mentions: list[Mention]) -> list[Mention]:
    """`Atelectasis or pneumonia`: each of them is uncertain."""
    found = sorted(mentions, key=lambda each: each.span)
    doubted = set()
    for one, other in pairwise(found):
        between = plain[one.span[1] : other.span[0]]
        if one.name != other.name and re.fullmatch(r" (?:or|and / or|/|versus|vs)(?: \w+){0,2} ", between):
            doubted |= {one, other}
    return [
        Mention(each.name, each.span, "uncertain") if each in doubted and each.status == "present" else each
        for each in found
    ]


# --- normal and enlarged parts, normal images -----------------------------------------------------


def _find_parts(plain: str, clause: Span, named: list[Span]) -> Iterator[Mention]:
    start, end = clause
    text = plain[:end]
    others = [*named, *find_spans(NOT_ANATOMY, plain, start)]
    parts = [
        (part, span)
        for part, phrases in ANATOMY.items()
        for span in find_spans(phrases, text, start)
        if not any(first <= span[0] < last for first, last in others)
    ]
    is_normal = has_any(cues.NORMAL, mask(cues.NOT_NORMAL, text[start:]))
    is_enlarged = has_any(cues.ENLARGED, mask(cues.NOT_ENLARGED, text[start:])) and not is_normal
    is_borderline = has_any(cues.BORDERLINE, text[start:])
    for part, span in parts:
        if part == "image":
            if is_normal and not named and {each for each, _ in parts} == {"image"} and _is_of_the_image(plain):
                yield Mention(NO_FINDING, span, "present")
            continue
        for name in DENIED_BY_NORMAL[part]:
            if part in ENLARGED_PARTS and (is_borderline or is_enlarged):
                is_open = is_borderline or has_any(cues.DOUBTS, text[start:])
                yield Mention(name, span, "uncertain" if is_open else "present")
            elif is_normal:
                yield Mention(name, span, "absent")


def _is_of_the_image(plain: str) -> bool:
    return not has_any(cues.NOT_OF_THE_IMAGE, plain)


def _find_nothing(plain: str, named: list[Span]) -> Iterator[Mention]:
    """`Unremarkable.`, `no acute process`."""
    if re.fullmatch(r"(?:normal|unremarkable|negative)", plain):
        yield Mention(NO_FINDING, (0, len(plain)), "present")
    for start, end in find_spans("no, without, not show, not demonstrate, not reveal", mask(cues.IDIOMS, plain)):
        for first, last in find_spans(cues.NOTHING, plain, end)[:1]:
            between, behind = plain[end:first], plain[last:].strip()
            is_near = len(between.split()) <= 5 and not any(start < span[0] < last for span in named)
            is_of_all = not has_any(cues.NOTHING_OF_A_PART, between) and not compile_words(cues.NOTHING_THAT).match(
                behind
            )
            if is_near and is_of_all and _is_of_the_image(plain):
                yield Mention(NO_FINDING, (start, last), "present")
