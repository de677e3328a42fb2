"""Turns the objects of an image into questions (how many, where, is there any) and a report.

A reader of boxes (voc, coco, masks, ...) only says where the objects come from. Only annotated objects are counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

from pydantic import Field, model_validator

from medvlm.archive.tables.wording import choose
from medvlm.core.config import Config
from medvlm.core.sample import Box, Question, Truth, make_truth


class ObjectClass(Config):
    """The singular and plural name of a class in questions and reports."""

    one: str
    many: str


class ObjectQuestions(Config):
    wordings: tuple[str, ...] = Field(min_length=1)
    """`{one}` and `{many}` become the class's names; each image gets one of them."""
    classes: tuple[str, ...] = ()
    """Classes to ask about; empty: all."""
    max_boxes: int = Field(0, ge=0)
    """For `boxes`: an image with more objects of the class is not asked to locate them; 0: no limit."""


class AsksAboutObjects(Config):
    """Settings that all readers of boxes share."""

    classes: dict[str, ObjectClass]
    """Name in the archive -> its class. Objects of other classes are left out."""
    count: ObjectQuestions | None = None
    boxes: ObjectQuestions | None = None
    """Asked for the classes that the image has."""
    presence: ObjectQuestions | None = None
    """Answered by yes or no."""

    @model_validator(mode="after")
    def _asks_about_its_classes(self) -> AsksAboutObjects:
        for asked in filter(None, (self.count, self.boxes, self.presence)):
            if unknown := sorted(set(asked.classes) - set(self.classes)):
                raise ValueError(f"asks about {unknown[0]!r}, expected one of the classes {', '.join(self.classes)}")
        return self


Boxes = Mapping[str, Sequence[Box]]
"""Class -> the boxes of its objects; every class of the card has an entry."""


def sort_by_class(
    objects: Iterable[tuple[str, Box]], size: tuple[int, int], classes: Iterable[str]
) -> tuple[Boxes, Counter[str]]:
    """The boxes by class, clipped to the image, and how many objects were left out, by reason.

    size: (height, width); zeros if unknown.
    """
    boxes: dict[str, list[Box]] = {name: [] for name in classes}
    left_out: Counter[str] = Counter()
    for name, box in objects:
        box = _clip(box, size)
        if name not in boxes:
            left_out["object of a class that the card does not name"] += 1
        elif box[0] >= box[2] or box[1] >= box[3]:
            left_out["box without area"] += 1
        else:
            boxes[name].append(box)
    return boxes, left_out


def questions(config: AsksAboutObjects, boxes: Boxes, key: str, uncounted: Container[str] = ()) -> Iterator[Question]:
    """uncounted: classes with more objects than boxes; there are no questions to count or locate these."""
    yield from _ask("count", config.count, _count, config, boxes, key, uncounted)
    yield from _ask("boxes", config.boxes, _locate, config, boxes, key, uncounted)
    yield from _ask("presence", config.presence, _tell_presence, config, boxes, key, uncounted)


def _ask(
    what: str,
    asked: ObjectQuestions | None,
    truth_of: Callable[[Sequence[Box], str, ObjectQuestions, bool], Truth | None],
    config: AsksAboutObjects,
    boxes: Boxes,
    key: str,
    uncounted: Container[str],
) -> Iterator[Question]:
    """what: the key in the card (count, boxes, presence); templates are `what:class`."""
    for name in (asked.classes or config.classes) if asked else ():
        assert asked is not None
        # Sorted from left to right, so that there is one right text, not one for every order of the boxes.
        ordered = tuple(sorted(boxes[name]))
        truth = truth_of(ordered, config.classes[name].one, asked, name in uncounted)
        if truth is not None:
            text = fill_names(choose(asked.wordings, key, what, name), config.classes[name])
            yield Question(text, truth, f"{what}:{name}")


def fill_names(wording: str, names: ObjectClass) -> str:
    return wording.replace("{one}", names.one).replace("{many}", names.many)


def report(config: AsksAboutObjects, boxes: Boxes, uncounted: Container[str] = ()) -> str:
    """`11 red blood cells, 1 white blood cell and no platelets.`"""
    parts = []
    for name, names in config.classes.items():
        n = len(boxes[name])
        parts.append(
            f"many {names.many}" if name in uncounted else f"{n or 'no'} {names.one if n == 1 else names.many}"
        )
    text = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return f"{text[0].upper()}{text[1:]}."


def _clip(box: Box, size: tuple[int, int]) -> Box:
    height, width = size if all(size) else (math.inf, math.inf)
    return max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)


# more: there are more objects than these boxes. Returns None if the question is not asked.


def _count(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth | None:
    return None if more else make_truth("count", count=len(boxes), boxes=boxes, label=label)


def _locate(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth | None:
    if more or not boxes or (asked.max_boxes and len(boxes) > asked.max_boxes):
        return None
    return make_truth("boxes", boxes=boxes, label=label)


def _tell_presence(boxes: Sequence[Box], label: str, asked: ObjectQuestions, more: bool) -> Truth:
    return make_truth("choice", "yes" if boxes or more else "no", choices=("yes", "no"), label=label)
