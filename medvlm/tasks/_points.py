"""Points as families of models write them, in tokens, tags, JSON or prose, read from one text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from medvlm.core.config import kinds
from medvlm.tasks import _brackets
from medvlm.tasks._brackets import MAX_BOXES
from medvlm.tasks._notations import LONGEST_TEXT, drop_spans, is_cut, is_denied, list_words_beside, says_none
from medvlm.tasks._writing import Point, Writing

_N = r" ?(-?[0-9]{1,7}(?:\.[0-9]{0,9})?) ?"
_PAIR = re.compile(rf"\[{_N}[,;]{_N}\]|\({_N}[,;]{_N}\)")
_KEY = re.compile(r"(\w+)[\"'`\\]{0,3} ?[:=] ?[\"']?[\[( ]*$")
_LOC = re.compile(r"(?:<loc(?:[0-9]{4}|_[0-9]{1,3})> ?){2}(?!<loc)")
_TWO_LOCS = re.compile(r"<loc(_?)([0-9]+)> ?<loc(_?)([0-9]+)>")
_TAG = re.compile(r"<points?\b([^<>]*)>(?:[^<>]*</points?>)?")
_SIDE = re.compile(rf"\b([xy])([0-9]{{0,3}})=[\"']?{_N}[\"']?")
_BARE = re.compile(rf"{_N}[, ]{_N}")
_UNREAD = re.compile(r"[\[(][^\[\]()0-9]*[0-9][^\[\]()]*[\])]|<loc|\b[xy][12]?[\"']? ?[:=]")
"""Numbers in brackets that are no points, such as boxes."""


class Reading(NamedTuple):
    """points: in the order of the text; [] where it says that there are none. spans: where they stand."""

    points: list[Point]
    spans: list[tuple[int, int]]


def read_points(text: str, extent: Sequence[float] = (), label: str = "") -> list[Point] | None:
    """None for a text that cannot be read: no points and not the words for none, points that are denied, too many, one
    that is cut off, or boxes.

    extent: (width, height) of the image in the units of the answer. Tokens and tags with units of their own
    (`<loc0012>`, `<point x="12.5" y="40.0">` in percent, as Molmo writes them) are turned into them; without it they
    stay in their own. label: of what is asked about.
    """
    if len(text) > LONGEST_TEXT:
        return None
    plain = " ".join(text.split())
    found = _read_bare(text) or _read_tags(plain, extent) or _read_locs(plain, extent) or _read_pairs(plain)
    words = list_words_beside(plain, found.spans, label)
    if not found.points:
        return [] if says_none(plain, words) else None
    if len(found.points) > MAX_BOXES or is_cut(plain[found.spans[-1][1] :]) or is_denied(words):
        return None
    return None if _UNREAD.search(drop_spans(plain, found.spans)) else found.points


def _read_bare(text: str) -> Reading | None:
    """Two numbers a line and nothing else."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    read = [_BARE.fullmatch(line) for line in lines]
    if not read or not all(read):
        return None
    return Reading([(float(match[1]), float(match[2])) for match in read if match], [(0, len(" ".join(text.split())))])


def _read_tags(plain: str, extent: Sequence[float]) -> Reading | None:
    wide, high = extent or (100.0, 100.0)
    points, spans = list[Point](), list[tuple[int, int]]()
    for match in _TAG.finditer(plain):
        sides = {(side[1], side[2]): float(side[3]) for side in _SIDE.finditer(match[1])}
        numbers = [number for axis, number in sides if axis == "x"]
        if not numbers or any(("y", number) not in sides for number in numbers):
            continue
        points += [(sides["x", n] * wide / 100, sides["y", n] * high / 100) for n in numbers]
        spans.append(match.span())
    return Reading(points, spans) if points else None


def _read_locs(plain: str, extent: Sequence[float]) -> Reading | None:
    """Two tokens each: `<loc0040><loc0012>` are y and x in 1024 parts, `<loc_12><loc_40>` x and y in 1000. Four in a
    row are a box."""
    whole = [match for match in _LOC.finditer(plain) if not plain[: match.start()].rstrip().endswith(">")]
    if not whole or 2 * len(whole) != plain.count("<loc"):
        return None
    points = []
    for match in whole:
        pair = _TWO_LOCS.match(plain, match.start())
        if pair is None or pair[1] != pair[3]:
            return None
        x, y, parts = (pair[2], pair[4], 1000.0) if pair[1] else (pair[4], pair[2], 1024.0)
        wide, high = extent or (parts, parts)
        points.append((int(x) * wide / parts, int(y) * high / parts))
    return Reading(points, [match.span() for match in whole])


def _read_pairs(plain: str) -> Reading:
    points, spans, key = list[Point](), list[tuple[int, int]](), ""
    for match in _PAIR.finditer(plain):
        first, second = (float(value) for value in match.groups() if value is not None)
        named = _KEY.search(plain[max(0, match.start() - 40) : match.start()])
        is_next = spans and re.fullmatch(r"[\]\[(), ;]*", plain[spans[-1][1] : match.start()])
        key = named[1].lower() if named else key if is_next else ""
        if "box" in key:
            continue
        points.append((second, first) if key == "point" else (first, second))  # `point`: y, x, as Gemini writes it
        spans.append(match.span())
    return Reading(points, spans)


def is_written(text: str, label: str, codec: str = "", extent: Sequence[float] = ()) -> bool:
    """Whether the text is exactly what the codec writes for the points in it, blanks aside, each of them once and
    within the image. codec: "" for any of them."""
    points = read_points(text, extent, label)
    if points is None or len(set(points)) != len(points):
        return False
    if extent and not all(0 <= x <= extent[0] and 0 <= y <= extent[1] for x, y in points):
        return False
    ways = [Writing(each).write_points(points, label) for each in ([codec] if codec else kinds("tasks.codecs"))]
    if not codec:
        ways.append(_brackets.join(points) or _brackets.NONE)
    return "".join(text.split()) in ["".join(way.split()) for way in ways]
