"""Where objects of several classes are, and how sure that is: boxes with scores, which a decoder gives.

An answer is text: for each class of the truth the boxes that were found, `x1,y1,x2,y2:score` in pixels of the canvas
that the model perceives, with the log-odds of the score in tenths; classes are separated by `|`. Boxes may be of
volumes too: `x1,y1,z1,x2,y2,z2:score`. Objects that a crop cuts by more than a half are no objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.decoder_config import MISSING, MOST_BOXES
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium
from medvlm.core.tasks import Drawing
from medvlm.tasks._boxes import check_boxes, clip_boxes, is_sized, make_box
from medvlm.tasks._detections import MEASURES, best_constant, find_f1, read, write_found  # noqa: F401
from medvlm.tasks._made_up import make_question

if TYPE_CHECKING:
    import numpy as np

    from medvlm.core.geometry import Canvas

# numpy is imported where pixels are, since it takes as long to load as everything else of a reward.


@dataclass(frozen=True)
class Truth(sample.Truth):
    """boxes: of medium 0, in stored pixels; once placed, in those of the canvas. of: the place in `classes` of each."""

    classes: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    of: tuple[int, ...] = ()


class Config(Base):
    kind: Literal["detect"]
    classes: tuple[str, ...] = Field(min_length=1)


ANSWERED_BY = "detections"
NEEDS_CANVAS = True
FOLLOWS_CROPS = FOLLOWS_WARPS = True
TITLE = "Detection"


def check(truth: Truth, media: Sequence[Medium]) -> None:
    check_boxes(truth.boxes, media)  # type: ignore[arg-type]
    if len(truth.of) != len(truth.boxes) or any(not 0 <= number < len(truth.classes) for number in truth.of):
        raise DataError("boxes without a class, or of one that is not named")
    if len(truth.boxes) > MOST_BOXES:
        raise DataError(f"{len(truth.boxes)} objects in an image; a decoder is trained on at most {MOST_BOXES}")


def has_coordinates(truth: Truth) -> bool:
    return bool(truth.boxes)


def follow(truth: Truth, canvas: Canvas) -> Truth | None:
    own: Any = zip(truth.boxes, truth.of, strict=True)
    kept = [(clip_boxes((box,), canvas), number) for box, number in own]
    there = [(found[0], number) for found, number in kept if found]
    return replace(truth, boxes=tuple(box for box, _ in there), of=tuple(number for _, number in there))


def place(truth: Truth, canvas: Canvas | None, writing: Any) -> Truth:
    if canvas is None:
        raise DataError("its boxes lie on stored pixels, and the model is shown others; use an encoder of images")
    placed = follow(truth, canvas)
    assert placed is not None
    return placed


def target(truth: Truth, masks: Any, classes: Sequence[str], exclusive: bool) -> np.ndarray:
    """float32 [MOST_BOXES, 1 + 4]: the class among `classes`, and the box, its lower corner before the upper one and
    the axes in the order of the pixels (y1, x1, y2, x2). Rows without an object are MISSING. truth: placed.

    Raises DataError for a truth that does not speak of all classes: what it does not mark could be one of them."""
    import numpy as np

    if absent := [name for name in classes if name not in truth.classes]:
        raise DataError(f"its boxes are of {', '.join(truth.classes)}, and not of {absent[0]!r}")
    rows = np.full((MOST_BOXES, 5), MISSING, np.float32)
    known = [
        (classes.index(truth.classes[number]), y1, x1, y2, x2)
        for (x1, y1, x2, y2), number in zip(truth.boxes, truth.of, strict=True)
        if truth.classes[number] in classes
    ]
    rows[: len(known)] = np.array(known, np.float32).reshape(-1, 5)
    return rows


def decode(found: np.ndarray, truth: Truth, classes: Sequence[str], exclusive: bool) -> str:
    """found: [M, 2 + 4], the class, the score and the box of each, as in target(); rows of MISSING are none."""
    of_class: dict[str, list[tuple[tuple[float, ...], float]]] = {name: [] for name in truth.classes}
    for number, score, y1, x1, y2, x2 in found.tolist():
        if number >= 0 and classes[int(number)] in of_class:
            of_class[classes[int(number)]].append(((x1, y1, x2, y2), score))
    return write_found([of_class[name] for name in truth.classes])


# --- score ------------------------------------------------------------------------------------------


def parse(text: str, truth: Truth) -> Any:
    return read(text, len(truth.classes)) if isinstance(text, str) else None


def score(answer: Any, truth: Truth) -> float:
    """F1 at IoU 0.5 of the boxes that are more probable than not, over all classes; 1 for none where there is none."""
    return find_f1(answer if isinstance(answer, str) else "?", truth.boxes, truth.of, len(truth.classes))


# --- rehearsal and report ---------------------------------------------------------------------------


def make_labelled(
    rng: np.random.Generator, media: Sequence[Medium], classes: Sequence[str], exclusive: bool
) -> tuple[str, Truth, dict[str, np.ndarray]] | None:
    if not is_sized(media) or len(media[0].size) != 2:
        return None
    places = [int(n) for n in rng.permutation(4)[: 1 + int(rng.integers(3))]]
    of = tuple(int(rng.integers(len(classes))) for _ in places)
    boxes = tuple(tuple(float(n) for n in make_box(place, media[0].size)) for place in places)
    return make_question(rng, "detect"), Truth(classes=tuple(classes), boxes=boxes, of=of), {}


def summarise(truth: Truth) -> str:
    return f"{len(truth.boxes)} objects"


def describe(answer: Any, truth: Truth) -> Drawing:
    def mark(boxes: Sequence[tuple[float, ...]], of: Sequence[int]) -> Any:
        return tuple((box, truth.classes[number]) for box, number in zip(boxes, of, strict=True) if len(box) == 4)

    found = parse(answer, truth) if answer is not None else None
    sure = [(box, n) for n, of_class in enumerate(found or ()) for box, score in of_class if score > 0]
    return Drawing(
        summarise(truth),
        boxes=mark(truth.boxes, truth.of),
        found=mark([box for box, _ in sure], [number for _, number in sure]),
        answer="" if answer is None else f"{len(sure)} boxes",
    )


_TWO = Truth(classes=("RBC", "WBC"), boxes=((0, 0, 10, 10), (50, 50, 70, 60)), of=(0, 1))
_NONE = Truth(classes=("RBC",))
_GRID = ";".join(f"{x},{y},{x + 10},{y + 10}:9" for x in range(0, 100, 10) for y in range(0, 100, 10))

EXAMPLES = [
    ("0,0,10,10:20|50,50,70,60:5", _TWO, 1.0),
    ("0,0,10,10:20;50,50,70,60:-5|50,50,70,60:5", _TWO, 1.0),
    ("0,0,10,10:20|", _TWO, 2 / 3),
    ("50,50,70,60:5|0,0,10,10:20", _TWO, 0.0),
    ("|", _TWO, 0.0),
    ("0,0,10,10:-1|50,50,70,60:-1", _TWO, 0.0),
    ("", _NONE, 1.0),
    ("0,0,10,10:3", _NONE, 0.0),
    # Everything found earns little; a box twice counts once; words, other numbers of classes and no boxes earn nothing.
    (f"{_GRID}|{_GRID}", _TWO, 4 / 202),
    ("0,0,10,10:20;0,0,10,10:20|50,50,70,60:5", _TWO, 0.8),
    ("0,0,10,10:20", _TWO, 0.0),
    ("I cannot tell", _TWO, 0.0),
    ("I cannot tell", _NONE, 0.0),
    ("10,10,0,0:20|50,50,70,60:5", _TWO, 0.0),
]
