"""A report as sentences in plain words, and each in clauses: as far as a denial or a doubt reaches."""

from __future__ import annotations

import re
from functools import cache

from medvlm.tasks.chest.cues import AFFIRMING, DENIALS, HEADS, JOINTS, TURNS
from medvlm.tasks.chest.words import ANATOMY, FINDINGS

Span = tuple[int, int]

_END = re.compile(r"(?<![\d.])\.+(?=\D|$)|(?<=\d)\.+(?=\s|$)|[;!]+|\n\s*\n|(?<=\?)(?=\s)")
_WORD = re.compile(r"[^\W_]+|[,()?:/]")


@cache
def compile_words(phrases: str) -> re.Pattern[str]:
    """Any of the phrases, in plain words; the longest that begins at a place is found."""
    each = sorted(((" ".join(phrase.split())) for phrase in phrases.split(",")), key=len, reverse=True)
    return re.compile(rf"(?<!\S)(?:{'|'.join(map(_write_pattern, each))})(?!\S)")


def _write_pattern(phrase: str) -> str:
    pattern = " ".join(re.escape(word).replace(r"\*", r"\S*") for word in phrase.split() if word)
    return pattern.replace(r"\? ", r"(?:\S+ )?")


def find_spans(phrases: str, plain: str, start: int = 0, end: int | None = None) -> list[Span]:
    return [match.span() for match in compile_words(phrases).finditer(plain[:end], start)]


def has_any(phrases: str, plain: str) -> bool:
    return compile_words(phrases).search(plain) is not None


def mask(phrases: str, plain: str) -> str:
    """The same length, with an underscore for each letter of the phrases."""
    return compile_words(phrases).sub(lambda found: re.sub(r"\S", "_", found[0]), plain)


def split_sentences(text: str) -> list[str]:
    """In plain words: lower case, one blank between words and marks, which are `, ( ) ? : /`; hyphens are blanks."""
    parts = (" ".join(_WORD.findall(part.lower())) for part in _END.split(text))
    return [part for part in parts if part.strip(" ,():/")]


def split_clauses(plain: str) -> list[Span]:
    """Where the clauses are. A comma, `and` or `with` begins one if a verb, a denial or a normal part comes behind it;
    the other items of a list belong to the clause before them."""
    spans: list[Span] = []
    pending: int | None = None
    for start, end in _split_at_joints(plain):
        part = plain[start:end]
        if pending is not None and compile_words(TURNS).match(part):
            spans.append((pending, start))
            pending = None
        if spans and pending is None and re.match(r"(?:, )?n?or\b", part):
            spans[-1] = spans[-1][0], end
        elif has_any(f"{HEADS}, {DENIALS}", part) or _begins_anew(plain, start, end):
            spans.append((start if pending is None else pending, end))
            pending = None
        elif spans and pending is None and not _names_only_parts(part):
            spans[-1] = spans[-1][0], end
        else:
            pending = start if pending is None else pending
    if pending is not None:
        if spans and not has_any(TURNS, plain[spans[-1][1] : pending + 8]):
            spans[-1] = spans[-1][0], len(plain)
        else:
            spans.append((pending, len(plain)))
    return spans


def _split_at_joints(plain: str) -> list[Span]:
    places = [0, *(start for start, _ in find_spans(f"{TURNS}, {JOINTS}", plain))]
    places += [match.start() for match in re.finditer(r"[,():]", plain)]
    starts = sorted(set(places))
    return [(start, end) for start, end in zip(starts, [*starts[1:], len(plain)], strict=True) if end > start]


def _names_only_parts(part: str) -> bool:
    """Whether it names parts of the body and no finding, and so may be the subject of what comes: `the cardiac and
    mediastinal contours are normal`."""
    return has_any(", ".join(ANATOMY.values()), part) and not has_any(", ".join(FINDINGS.values()), part)


def _begins_anew(plain: str, start: int, end: int) -> bool:
    """Whether an item of a list is said to be there, after denied ones: `no pneumothorax, small effusion`."""
    words = plain[start:end].split()
    if not words or words[0] in {"but", "however", "although", "though", "while", "whereas", "except", "with"}:
        return bool(words)
    first = next((word for word in words if word not in {",", "and", "(", ")", ":"}), "")
    return start > 0 and has_any(AFFIRMING, first) and not has_any("or, nor", plain[start:])
