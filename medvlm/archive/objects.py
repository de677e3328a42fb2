"""Turns the objects of an image into questions (how many, where, is there any) and a report.

A reader of boxes (voc, coco, masks, ...) only says where the objects come from. Only annotated objects are counted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from medvlm.archive.box_form import find_fault, reaches_beyond
from medvlm.archive.tables.wording import choose
from medvlm.core.config import Config
from medvlm.core.content import Offer, name_asked
from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Question, Truth, make_truth


class ObjectClass(Config):
    """The singular and plural name of a class in questions and reports."""

    one: str
    many: str
    means: str = Field("", exclude_if=lambda means: not means)
    """A description for `{means}` in wordings: what it looks like, and where."""


class ObjectQuestions(Config):
    wordings: tuple[str, ...] = Field(min_length=1)
    """`{one}` and `{many}` become the class's names, and `{means}` its description; each image gets one of them."""
    classes: tuple[str, ...] = ()
    """Classes to ask about; empty: all."""
    max_boxes: int = Field(0, ge=0)
    """For boxes and points: an image with more objects of the class is not asked to locate them; 0: no limit."""


class DetectQuestion(Config):
    """Asks for the objects of all classes at once, also where there is none; a decoder answers with boxes."""

    wordings: tuple[str, ...] = Field(("Where is what?",), min_length=1)
    template: str = "detect"
    """What the question is called: a decoder of this name, or that `answers` it, is trained on it."""


class AsksAboutObjects(Config):
    """Settings that all readers of boxes share."""

    classes: dict[str, ObjectClass]
    """Name in the archive -> its class. Objects of other classes are left out."""
    count: ObjectQuestions | None = None
    boxes: ObjectQuestions | None = None
    """Asked for the classes that the image has."""
    presence: ObjectQuestions | None = None
    """Answered by yes or no."""
    points: ObjectQuestions | None = None
    """As `boxes`; the answer is the centre of each box."""
    counted_boxes: ObjectQuestions | None = None
    """As `boxes`; the answer is JSON with their number before them, `{"counts": 2, "boxes": ...}`, as in
    Point-Detect-Count (github.com/simula/PointDetectCount)."""
    counted_points: ObjectQuestions | None = None
    """As `points`, with their number before them, `{"counts": 2, "points": ...}`."""
    detect: DetectQuestion | None = Field(None, exclude_if=lambda asked: asked is None)
    """Not asked of an image in which a class is unclear or has more objects than boxes."""

    @model_validator(mode="after")
    def _asks_about_its_classes(self) -> AsksAboutObjects:
        for asked in self.list_asked():
            if unknown := sorted(set(asked.classes) - set(self.classes)):
                raise ValueError(f"asks about {unknown[0]!r}, expected one of the classes {', '.join(self.classes)}")
            silent = [name for name in asked.classes or self.classes if not self.classes[name].means]
            if silent and any("{means}" in wording for wording in asked.wordings):
                raise ValueError(f"a wording has {{means}}, and the class {silent[0]!r} has none; describe it")
        return self

    def list_asked(self) -> list[ObjectQuestions]:
        kinds = (self.count, self.boxes, self.presence, self.points, self.counted_boxes, self.counted_points)
        return [asked for asked in kinds if asked]


Boxes = Mapping[str, Sequence[Box]]
"""Class -> the boxes of its objects; every class of the card has an entry."""


@dataclass(frozen=True)
class SortedObjects:
    """boxes: by class, clipped to the image. unclear: classes of which an object is annotated without a box that can be
    used: nothing is asked about them, since their number is not known. left_out: how many objects, by reason."""

    boxes: Boxes
    unclear: frozenset[str]
    left_out: Counter[str]


def sort_by_class(
    objects: Iterable[tuple[str, Box]], size: tuple[int, int], classes: Iterable[str], may_coincide: bool = False
) -> SortedObjects:
    """size: (height, width); zeros if unknown. may_coincide: whether objects that differ may have the same box, as
    those of masks; otherwise it is one object that is listed twice. An object without a class makes all classes
    unclear.

    Raises DataError for a class that differs from one of the card only in letter case, blanks or plural: left out, it
    would turn its image into one without any."""
    boxes: dict[str, list[Box]] = {name: [] for name in classes}
    of_form = {_plain_form(name): name for name in boxes}
    unclear: set[str] = set()
    left_out: Counter[str] = Counter()
    for name, box in objects:
        if not name:
            left_out["object without a class: nothing is asked about its image"] += 1
            unclear.update(boxes)
        elif name not in boxes:
            if near := of_form.get(_plain_form(name)):
                raise DataError(f"an object of a class that the card spells {near!r}; write it as the archive does")
            left_out["object of a class that the card does not name"] += 1
        elif why := find_fault(box, size):
            left_out[f"{why}: its class is not asked about in its image"] += 1
            unclear.add(name)
        elif (kept := _clip(box, size)) in boxes[name] and not may_coincide:
            left_out["box of the same class at the same place as another"] += 1
        else:
            boxes[name].append(kept)
            if reaches_beyond(box, size):
                left_out["box cut at the edge of its image"] += 1
    return SortedObjects(boxes, frozenset(unclear), left_out)


def _plain_form(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold()).removesuffix("s")


def questions(
    config: AsksAboutObjects,
    boxes: Boxes,
    key: str,
    uncounted: Container[str] = (),
    unclear: Container[str] = (),
) -> Iterator[Question]:
    """uncounted: classes with more objects than boxes; there are no questions to count or locate these. unclear: as in
    SortedObjects."""
    clear = [name for name in config.classes if name not in unclear]
    yield from _ask("count", config.count, _count, config, clear, boxes, key, uncounted)
    yield from _ask("boxes", config.boxes, _locate, config, clear, boxes, key, uncounted)
    yield from _ask("presence", config.presence, _tell_presence, config, clear, boxes, key, uncounted)
    yield from _ask("points", config.points, _point, config, clear, boxes, key, uncounted)
    yield from _ask("counted_boxes", config.counted_boxes, _locate_counted, config, clear, boxes, key, uncounted)
    yield from _ask("counted_points", config.counted_points, _point_counted, config, clear, boxes, key, uncounted)
    if config.detect and all(name in clear and name not in uncounted for name in config.classes):
        found = [(box, number) for number, name in enumerate(config.classes) for box in sorted(boxes[name])]
        truth = make_truth(
            "detect",
            classes=tuple(config.classes),
            boxes=tuple(box for box, _ in found),
            of=tuple(number for _, number in found),
        )
        yield Question(choose(config.detect.wordings, key, config.detect.template), truth, config.detect.template)


def _ask(
    what: str,
    asked: ObjectQuestions | None,
    truth_of: Callable[[Sequence[Box], str, ObjectQuestions, bool], Truth | None],
    config: AsksAboutObjects,
    clear: Container[str],
    boxes: Boxes,
    key: str,
    uncounted: Container[str],
) -> Iterator[Question]:
    """what: the key in the card, such as count; templates are `what:class`."""
    for name in (asked.classes or config.classes) if asked else ():
        assert asked is not None
        if name not in clear:
            continue
        # Sorted from left to right, so that there is one right text, not one for every order of the boxes.
        ordered = tuple(sorted(boxes[name]))
        truth = truth_of(ordered, config.classes[name].one, asked, name in uncounted)
        if truth is not None:
            text = fill_names(choose(asked.wordings, key, what, name), config.classes[name])
            yield Question(text, truth, f"{what}:{name}")


def list_object_tasks(config: AsksAboutObjects | None) -> frozenset[str]:
    """The tasks of its questions about objects."""
    if config is None:
        return frozenset()
    return name_asked(
        count=config.count,
        boxes=config.boxes or config.counted_boxes,
        choice=config.presence,
        points=config.points or config.counted_points,
        detect=config.detect,
    )


def list_object_offers(config: AsksAboutObjects | None) -> dict[str, Offer]:
    """Template -> its question about objects that decoders answer."""
    if config is None or config.detect is None:
        return {}
    return {config.detect.template: Offer("detect", tuple(config.classes))}


def fill_names(wording: str, names: ObjectClass) -> str:
    return wording.replace("{one}", names.one).replace("{many}", names.many).replace("{means}", names.means)


def report(config: AsksAboutObjects, boxes: Boxes, uncounted: Container[str] = (), unclear: Container[str] = ()) -> str:
    """`11 red blood cells, 1 white blood cell and no platelets.` Says nothing of unclear classes."""
    parts = []
    for name, names in config.classes.items():
        if name in unclear:
            continue
        n = len(boxes[name])
        parts.append(
            f"many {names.many}" if name in uncounted else f"{n or 'no'} {names.one if n == 1 else names.many}"
        )
    text = " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _clip(box: Box, size: tuple[int, int]) -> Box:
    height, width = size if all(size) else (math.inf, math.inf)
    return max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)


# more: there are more objects than these boxes. Returns None if the question is not asked.


def _count(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth | None:
    return None if more else make_truth("count", count=len(boxes), boxes=boxes, label=label)


def _locate(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth | None:
    return make_truth("boxes", boxes=boxes, label=label) if _can_locate(boxes, asked, more) else None


def _point(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth | None:
    return make_truth("points", points=_centres(boxes), label=label) if _can_locate(boxes, asked, more) else None


def _locate_counted(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth | None:
    text = f'{{"counts": {len(boxes)}, "boxes": {{boxes}}}}'
    return make_truth("boxes", text, boxes=boxes, label=label) if _can_locate(boxes, asked, more) else None


def _point_counted(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth | None:
    text = f'{{"counts": {len(boxes)}, "points": {{points}}}}'
    centres = _centres(boxes)
    return make_truth("points", text, points=centres, label=label) if _can_locate(boxes, asked, more) else None


def _can_locate(boxes: Sequence[Box], asked: ObjectQuestions, more: bool) -> bool:
    return not more and bool(boxes) and not (asked.max_boxes and len(boxes) > asked.max_boxes)


def _centres(boxes: Sequence[Box]) -> tuple[tuple[float, float], ...]:
    """From left to right."""
    return tuple(sorted(((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes))


def _tell_presence(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth:
    return make_truth("choice", "yes" if boxes or more else "no", choices=("yes", "no"), label=label)
