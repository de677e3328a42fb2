"""Boxes as families of models write them, in tokens, JSON or prose, read from one text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from medvlm.core.sample import Box
from medvlm.tasks._brackets import MAX_BOXES
from medvlm.tasks._negation import compile_phrases, is_doubtful
from medvlm.tasks._phrases import NOTHING

LONGEST_TEXT = 50_000
"""Characters; MAX_BOXES boxes as JSON are shorter."""
DENIED = f"{NOTHING}, not, n't, never, neither, nor, without, kein, nicht, ne pas, 不"
_NO_OTHERS = "no other, no others, no more, no further, no additional, nothing else, no doubt, not only, without doubt"

_N = r" ?-?[0-9]{1,7}(?:\.[0-9]{0,9})? ?"
_NUMBER = re.compile(r"-?[0-9]{1,7}(?:\.[0-9]{0,9})?")
_PAIR = rf"({_N})[,;]({_N})"
_TO = r" ?(?:,|;|-|–|→|to|and)? ?(?:(?:and|to) )?(?:bottom[- ]right(?: corner)?(?: at)? ?[:=]? ?)?"
_KEY = re.compile(r"(\w+)[\"'`\\]{0,3} ?[:=] ?[\"']?[\[( ]*$")
_SIDE = re.compile(
    r"(?<![\w])(x_?min|y_?min|x_?max|y_?max|x_?[012]|y_?[012]|left|top|right|bottom|x|y|w|h|width|height)"
    rf"[\"'\\]{{0,3}} ?[:=] ?[\"']?({_N})(?![\w%])",
    re.IGNORECASE,
)
_SIDES = {
    **dict.fromkeys(("xmin", "x1", "x0", "left", "x"), "x1"),
    **dict.fromkeys(("ymin", "y1", "y0", "top", "y"), "y1"),
    **dict.fromkeys(("xmax", "x2", "right"), "x2"),
    **dict.fromkeys(("ymax", "y2", "bottom"), "y2"),
    **{"w": "w", "width": "w", "h": "h", "height": "h"},
}
_STRING = re.compile(
    r"(?<!\\)\"(?:[^\"\\]|\\.)*\"|(?<![\w\\])'(?:[^'\\]|\\.)*'(?!\w)|<ref>[^<]*</ref>|<\|[^|<>]*\|>|</?[a-z_ ]+/?>"
)

_OPEN = re.compile(r"[\[(<][^\[\]()<>0-9.,-]*[0-9.,-][^\[\]()<>]*$|[\[(]\s*$")
"""No two repetitions of it may share a character, nor may a string of the above begin within another: the time would
grow with the square of the length of the text."""


class Reading(NamedTuple):
    """boxes: those with an area, in the order of the text. written: how many stand there, without an area or with
    their corners swapped included; 0 where the text says that there are none."""

    boxes: list[Box]
    written: int


class Group(NamedTuple):
    start: int
    end: int
    boxes: list[Box]


def read_boxes(text: str, extent: Sequence[float] = (), label: str = "") -> Reading | None:
    """None for a text that cannot be read: no boxes and not the words for none, boxes that are denied, too many, or a
    last one that is cut off.

    extent: (width, height) of the image in the units of the answer. Tokens with units of their own (`<loc0012>`,
    `<patch_index_0044>`) are turned into them; without it they stay in their own. label: of what is asked about.
    """
    if len(text) > LONGEST_TEXT:
        return None
    plain = " ".join(text.split())
    groups = _find_bare(text) if re.fullmatch(r"[-0-9., ;\n]+", text.strip()) else _find_groups(plain, extent)
    if groups is None:
        return None
    boxes = [box for group in groups for box in group.boxes]
    words = list_words_beside(plain, [(group.start, group.end) for group in groups], label)
    if not boxes:
        return Reading([], 0) if says_none(plain, words) else None
    if len(boxes) > MAX_BOXES or is_cut(plain[groups[-1].end :]):
        return None
    if is_denied(words):
        return None
    return Reading([box for box in boxes if box[0] < box[2] and box[1] < box[3]], len(boxes))


def is_cut(tail: str) -> bool:
    """Whether what follows the last box is the beginning of another one."""
    return _OPEN.search(tail) is not None or tail.count('"') % 2 == 1


# --- tokens -----------------------------------------------------------------------------------------


class LocationTokens(NamedTuple):
    """mark: a text that has it holds nothing else. units: of the whole image."""

    mark: str
    pattern: re.Pattern[str]
    per_box: int
    units: float
    order: Callable[[list[float]], Box]


def _order_xy(values: list[float]) -> Box:
    return values[0], values[1], values[2], values[3]


def _order_yx(values: list[float]) -> Box:
    return values[1], values[0], values[3], values[2]


def _order_cells(values: list[float]) -> Box:
    """Of two cells of a grid of 32 x 32, counted row by row."""
    return values[0] % 32, values[0] // 32, values[1] % 32 + 1, values[1] // 32 + 1


def _repeat(token: str, times: int) -> re.Pattern[str]:
    return re.compile(" ?".join([token] * times))


_TOKENS = (
    LocationTokens("<loc_", _repeat(r"<loc_([0-9]{1,4})>", 4), 4, 1000, _order_xy),  # Florence-2
    LocationTokens("<loc", _repeat(r"<loc([0-9]{1,4})>", 4), 4, 1024, _order_yx),  # PaliGemma
    LocationTokens("<patch_index_", _repeat(r"<patch_index_([0-9]{1,4})>", 2), 2, 32, _order_cells),  # Kosmos-2
    LocationTokens(
        "<x",
        re.compile(r"<x_?([0-9]{1,4})> ?<y_?([0-9]{1,4})> ?<x_?([0-9]{1,4})> ?<y_?([0-9]{1,4})>"),
        2,
        100,
        _order_xy,
    ),
    LocationTokens(
        "{<", re.compile(r"\{<([0-9]{1,4})> ?<([0-9]{1,4})> ?<([0-9]{1,4})> ?<([0-9]{1,4})>\}"), 1, 100, _order_xy
    ),
)
"""The last two: MAIRA-2 and MiniGPT-v2."""


def _find_tokens(plain: str, tokens: LocationTokens, extent: Sequence[float]) -> list[Group] | None:
    """None for tokens that are no whole boxes."""
    wide, high = extent or (tokens.units, tokens.units)
    found = []
    for match in tokens.pattern.finditer(plain):
        x1, y1, x2, y2 = tokens.order([float(value) for value in match.groups()])
        across, down = wide / tokens.units, high / tokens.units
        found.append(Group(match.start(), match.end(), [(x1 * across, y1 * down, x2 * across, y2 * down)]))
    return found if len(found) * tokens.per_box == plain.count(tokens.mark) else None


# --- brackets and keys ------------------------------------------------------------------------------

_CORNERS = re.compile(rf"\[ ?\[{_PAIR}\] ?, ?\[{_PAIR}\] ?\]|\({_PAIR}\){_TO}\({_PAIR}\)")
_LIST = re.compile(r"\[([^\[\]]{7,4000})\]|\(([^()\[\]]{7,90})\)|<\|?(?:b?box|box_start|det)\|?>([^<\[\](){}]{7,90})<")


def _find_groups(plain: str, extent: Sequence[float]) -> list[Group] | None:
    for tokens in _TOKENS:
        if tokens.mark in plain:
            return _find_tokens(plain, tokens, extent)
    found = _find_by_side(plain)
    if found is None or found:
        return found
    found, key = [], ""
    for start, end, values in _scan_brackets(plain):
        named = _KEY.search(plain[max(0, start - 40) : start])
        is_next = found and re.fullmatch(r"[\]\[(), ;]*", plain[found[-1].end : start])
        key = named[1].lower() if named else key if is_next else ""
        if "point" in key or "polygon" in key:
            continue
        order = _order_yx if key == "box_2d" else _order_xy
        found.append(Group(start, end, [order(each) for each in values]))
    return found


def _scan_brackets(plain: str) -> Iterator[tuple[int, int, list[list[float]]]]:
    corners = [(*match.span(), [[float(v) for v in match.groups() if v]]) for match in _CORNERS.finditer(plain)]
    taken = [(start, end) for start, end, _ in corners]
    lists, at = [], 0
    for match in _LIST.finditer(plain):
        while at < len(taken) and taken[at][1] <= match.start():
            at += 1
        is_taken = at < len(taken) and taken[at][0] < match.end()
        values = None if is_taken else _split_numbers(next(filter(None, match.groups()), ""))
        if values:
            lists.append((*match.span(), values))
    yield from sorted(corners + lists, key=lambda each: each[0])


def _split_numbers(inside: str) -> list[list[float]] | None:
    """Four numbers, or several times four with semicolons between them (CogVLM, Shikra)."""
    pieces = [_read_four(piece) for piece in inside.split(";")]
    if all(piece is not None for piece in pieces):
        return [piece for piece in pieces if piece is not None]
    whole = _read_four(inside.replace(";", ","))
    return None if whole is None else [whole]


def _read_four(piece: str) -> list[float] | None:
    parts = piece.replace(",", " ").split()
    if len(parts) != 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    return [float(part) for part in parts]


def _find_by_side(plain: str) -> list[Group] | None:
    """`x1=10, y1=20, ...`, and JSON with a key for each side. None where one is not whole."""
    found: list[Group] = []
    sides: dict[str, float] = {}
    start = 0
    for match in _SIDE.finditer(plain):
        if re.search(r"<points?\b[^<>]*$", plain[max(0, match.start() - 300) : match.start()]):
            return []  # Molmo's points are no boxes
        start = start if sides else match.start()
        side = _SIDES[match[1].lower().replace("_", "")]
        if side in sides:
            return None
        sides[side] = float(match[2])
        if {"x1", "y1"} <= sides.keys() and len(sides) == 4:
            x1, y1 = sides["x1"], sides["y1"]
            x2 = sides["x2"] if "x2" in sides else x1 + sides.get("w", 0)
            y2 = sides["y2"] if "y2" in sides else y1 + sides.get("h", 0)
            found.append(Group(start, match.end(), [(x1, y1, x2, y2)]))
            sides = {}
    return None if sides and found else found


def _find_bare(text: str) -> list[Group]:
    """Four numbers a line and nothing else."""
    read = [_split_numbers(line.strip(" .,")) for line in text.strip().splitlines() if line.strip()]
    if any(each is None for each in read):
        return []
    return [Group(0, len(" ".join(text.split())), [_order_xy(v) for each in read if each for v in each])]


# --- words ------------------------------------------------------------------------------------------


def is_denied(words: str) -> bool:
    return compile_phrases(DENIED).search(compile_phrases(_NO_OTHERS).sub("", words)) is not None


def list_words_beside(plain: str, spans: Sequence[tuple[int, int]], label: str) -> str:
    """What is said beside the boxes or points, in lower case with one blank between words; no labels. spans: where they
    start and end."""
    rest = drop_spans(plain, spans)
    rest = rest.replace(label, " ") if label and spans else rest
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"([\u3400-\u9fff])", r" \1 ", rest.lower())))


def drop_spans(plain: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text without what stands there, and without strings and tags beside it."""
    kept, at = [], 0
    for start, end in spans:
        kept.append(plain[at:start])
        at = end
    rest = " ".join([*kept, plain[at:]])
    return _STRING.sub(" ", rest) if spans else rest


def says_none(plain: str, words: str) -> bool:
    bare = re.sub(r"```(?:json)?|\"\w+\" ?:|</?\|?\w+\|?/?>|[\s.`]", "", plain.lower())
    if bare in ("[]", "[[]]", "{[]}", "[{}]", "()") or (not bare and re.search(r"<\|?b?box\|?>", plain)):
        return True
    if re.search(r"[\[<{0-9]", plain) or is_doubtful(words):
        return False
    return compile_phrases(NOTHING).search(compile_phrases(_NO_OTHERS).sub("", words)) is not None
