"""On which side a sentence says that a finding is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from medvlm.tasks.chest import cues
from medvlm.tasks.chest.mentions import Mention
from medvlm.tasks.chest.sentences import find_spans, has_any, mask
from medvlm.tasks.chest.words import SIDELESS

Side = Literal["", "left", "right", "both"]


def find_sides(plain: str, mentions: Sequence[Mention]) -> list[Side]:
    """Of each mention, which are in order. Words of sides between two findings belong to the first if they say where it
    is (`opacity in the left lung`), else to the second (`effusion and left opacity`). A finding without a word of its
    own is on the side of the one before it, unless a comma or `but` is between them."""
    if not mentions:
        return []
    text = mask(cues.NO_SIDE, plain)
    text = re.sub(rf"(?<!\S)(?:{'|'.join(_list_patterns(cues.SPARED))}) [^,]*", lambda m: "_" * len(m[0]), text)
    borders = [_find_border(text, one, other) for one, other in pairwise(mentions)]
    starts, ends = [0, *borders], [*borders, len(text)]
    sides = [_read_side(text[start:end]) for start, end in zip(starts, ends, strict=False)]
    for number in reversed(range(len(sides) - 1)):
        if not sides[number] and _is_together(text, mentions[number], mentions[number + 1]):
            sides[number] = sides[number + 1]
    for number in range(1, len(sides)):
        if not sides[number] and not _is_apart(text, mentions[number - 1], mentions[number]):
            sides[number] = sides[number - 1]
    return ["" if each.name in SIDELESS else side for each, side in zip(mentions, sides, strict=True)]


def join_sides(sides: Iterable[str]) -> Side:
    """The side of what is on all of them."""
    found = set(sides) - {""}
    if not found:
        return ""
    return found.pop() if len(found) == 1 else "both"  # type: ignore[return-value]


def _list_patterns(phrases: str) -> list[str]:
    return [re.escape(" ".join(phrase.split())) for phrase in sorted(phrases.split(","), key=len, reverse=True)]


def _find_border(text: str, one: Mention, other: Mention) -> int:
    """Where what is said of the first ends and what is said of the second begins."""
    start, end = one.span[1], max(one.span[1], other.span[0])
    between = text[start:end]
    joints = [
        match.start() for match in re.finditer(r"(?<!\S)(?:and|with|,|but|or|/|\(|\)|who|which|that)(?!\S)", between)
    ]
    if has_any(cues.PLACES, between):
        return start + joints[-1] if joints else end
    return start + joints[0] if joints else start


def _is_together(text: str, one: Mention, other: Mention) -> bool:
    """`Nodular opacity`, `consolidation and effusion`: what is said behind the second is said of both."""
    between = text[one.span[1] : other.span[0]]
    return re.fullmatch(r" *(?:(?:and|or) )?(?:(?!and|or|with)\w+ ){0,2}", between) is not None and not has_any(
        f"{cues.PLACES}, {cues.LEFT}, {cues.RIGHT}, {cues.BOTH}, {cues.HEADS}", between
    )


def _is_apart(text: str, one: Mention, other: Mention) -> bool:
    between = text[one.span[1] : other.span[0]]
    joints = find_spans(f"{cues.TURNS}, and, with, or, no, without", between)
    last_joint = joints[-1] if joints else (-1, -1)
    has_turned = last_joint[0] >= 0 and has_any(f"{cues.TURNS}, no, without", between[slice(*last_joint)])
    is_set_apart = between.rfind(",") > last_joint[0] and not has_any(cues.READINGS, between)
    return has_turned or is_set_apart or (one.status == "absent") != (other.status == "absent")


def _read_side(text: str) -> Side:
    if has_any(cues.BOTH, text) or _says_both(text):
        return "both"
    found = [side for side, words in (("left", cues.LEFT), ("right", cues.RIGHT)) if has_any(words, text)]
    return join_sides(found)


def _says_both(text: str) -> bool:
    """`Both lungs`, `both lower lobes`, and not `both opacity and effusion`."""
    return any(has_any(cues.SIDED, " ".join(text[end:].split()[:2])) for _, end in find_spans("both", text))
