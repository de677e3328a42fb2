"""Where objects are among several images, or on slices of a volume: boxes with the number of what they lie on, such as
`image 2: [x1, y1, x2, y2]` or `slice 14: [x1, y1, x2, y2]`, in the coordinates of what the model sees.

Numbers count what the model sees, from 1: the images of the sample, or the slices that it is shown of a volume. Found
and true boxes are matched one to one, with the largest sum of gains, which is divided by max(number found, number
true). A pair on the same image gains its IoU; on a slice that is d slices away, IoU times 1 - d / (within + 1), and
nothing on any other. A question with nothing to find counts 1 for `none`, else 0.

Sources: MedSG-Bench (arXiv 2505.11872), whose questions name one of several images; the distance of slices is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Box, Medium
from medvlm.core.tasks import Drawing, LabelledBox
from medvlm.tasks import _brackets, _indexed
from medvlm.tasks._boxes import check_boxes, is_sized, make_box, mark
from medvlm.tasks._indexed import PlacedBox
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._writing import Writing

if TYPE_CHECKING:
    import numpy as np

SLOT = "{boxes}"
"""Where an answer holds this text, the boxes are written in the coordinates of what the model sees."""
HIT_IOU = 0.5
CANDIDATES, JUDGES = 60, 200
"""Constant answers that are tried, and questions they are tried on."""
IMAGE, SLICE = "image", "slice"


@dataclass(frozen=True)
class Truth(sample.Truth):
    """`boxes` of `label`, each on the image or slice (`of`) of the same place in `numbers`, counted from 1; without
    numbers, all are on the first. In stored pixels and stored slices of medium 0 or, once placed, as they are written.
    within: how many slices away a box still gains something. codec, extents: once placed, how boxes are written, and
    what (width, height) of each image, or of the volume's slices, are in its units."""

    boxes: tuple[Box, ...] = ()
    numbers: tuple[int, ...] = ()
    label: str = ""
    of: str = IMAGE
    within: int = 0
    codec: str = ""
    extents: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if any(len(box) != 4 for box in self.boxes):
            raise DataError("a box has four numbers: x1, y1, x2, y2")
        if not self.numbers:
            object.__setattr__(self, "numbers", (1,) * len(self.boxes))
        if len(self.numbers) != len(self.boxes) or any(number < 1 for number in self.numbers):
            raise DataError(f"expected the number of an {self.of}, from 1, for each of {len(self.boxes)} boxes")
        _indexed.check_label(self.label, self.of)
        object.__setattr__(self, "answer", self.answer or SLOT)

    def to_json(self) -> dict[str, Any]:
        """Without what only a placed truth has, where it has none."""
        return {name: value for name, value in super().to_json().items() if value or name not in ("codec", "extents")}

    @property
    def placed(self) -> tuple[PlacedBox, ...]:
        return tuple(zip(self.numbers, self.boxes, strict=True))

    def find_extent(self, number: int) -> tuple[float, ...]:
        """Of an image or slice; () before the truth is placed, and where there is none."""
        at = number - 1 if self.of == IMAGE else 0
        return self.extents[at] if 0 <= at < len(self.extents) else ()

    def keep(self, placed: Sequence[PlacedBox]) -> Truth:
        return replace(self, boxes=tuple(box for _, box in placed), numbers=tuple(number for number, _ in placed))


class Config(Base):
    kind: Literal["indexed_boxes"]
    label: str = ""
    """What is to be found."""
    of: Literal["image", "slice"] = "image"
    """Whether boxes lie on the images of a sample, or on the slices of its first medium."""
    within: int = Field(0, ge=0)
    """How many slices away from the right one a box still gains something."""


NEEDS_CANVAS = True
FOLLOWS_CROPS = FOLLOWS_WARPS = True
TITLE = "Boxes on several images or slices"


# --- text -------------------------------------------------------------------------------------------


def parse(text: str, truth: Truth) -> list[PlacedBox] | None:
    """Those with an area, in the order of the text; [] where it says that there are none, None where it cannot be
    read."""
    found = _indexed.read(text, truth.of, truth.find_extent, truth.label)
    return None if found is None or len(found[0]) < min(1, found[1]) else found[0]


def is_formatted(answer: str, truth: Truth) -> bool:
    """As the codec of the recipe writes it, blanks aside, each box once and within its image. Before it is placed, in
    brackets."""
    found = _indexed.read(answer, truth.of, truth.find_extent, truth.label)
    if found is None or len(set(found[0])) != found[1]:
        return False
    for number, (x1, y1, x2, y2) in found[0]:
        if (extent := truth.find_extent(number)) and (min(x1, y1) < 0 or x2 > extent[0] or y2 > extent[1]):
            return False
    return "".join(answer.split()) == "".join(_write(found[0], truth).split())


def _write(placed: Sequence[PlacedBox], truth: Truth) -> str:
    codec = Writing(truth.codec) if truth.codec else None
    return _indexed.write(
        placed, truth.of, lambda boxes: codec.write(boxes, truth.label) if codec else _brackets.write(boxes)
    )


def from_text(text: str, config: Config) -> Truth | None:
    """`image 2: [x1, y1, x2, y2], ...` in stored pixels, or `none`; None for any other text."""
    found = _indexed.read(text, config.of, lambda number: ())
    if found is None or found[1] != len(found[0]) or any(number < 1 for number, _ in found[0]):
        return None
    return Truth(label=config.label, of=config.of, within=config.within).keep(sorted(found[0]))


# --- geometry ---------------------------------------------------------------------------------------


def check(truth: Truth, media: Sequence[Medium]) -> None:
    if truth.of == SLICE:
        depth = media[0].size[0] if media and len(media[0].size) == 3 else 0
        if any(number > depth for number in truth.numbers):
            raise DataError(f"a box lies on slice {max(truth.numbers)} of a medium with {depth} slices")
        check_boxes(truth.boxes, media)
        return
    for number, box in truth.placed:
        if number > len(media):
            raise DataError(f"a box lies on image {number} of {len(media)}")
        check_boxes([box], media[number - 1 :])


def has_coordinates(truth: Truth) -> bool:
    return bool(truth.boxes)


def place(truth: Truth, canvas: Canvas | None, writing: Writing) -> Truth:
    if canvas is None and SLOT not in truth.answer:
        return truth
    seen = [] if canvas is None else [canvas] if truth.of == SLICE else [canvas, *canvas.further]
    canvases = [each for each in seen if each is not None]
    if len(canvases) < max(1, len(seen)) or (truth.of == SLICE and not canvases[0].num_slices):
        raise DataError(
            f"its boxes lie on stored {truth.of}s, and the model is shown another plane (model.views) or none; use"
            " plane: stored, or leave `indexed_boxes` out of `tasks`"
        )
    found = (_place(truth, canvases, number, box, writing) for number, box in truth.placed)
    kept = list(dict.fromkeys(filter(None, found)))  # one slice may be seen of several that have the same box
    if truth.boxes and not kept:
        raise DataError("no box lies on what the model sees; use preprocess.fit: squash, or drop the question")
    extents = tuple(writing.extent(each) for each in canvases)
    text = _indexed.write(kept, truth.of, lambda boxes: writing.write(boxes, truth.label))
    answer = truth.answer.replace(SLOT, text)
    return replace(truth.keep(kept), answer=answer, codec=writing.codec, extents=extents)


def _place(truth: Truth, canvases: Sequence[Canvas], number: int, box: Box, writing: Writing) -> PlacedBox | None:
    at = canvases[0].see_slice(number - 1) if truth.of == SLICE else number - 1
    canvas = canvases[0] if truth.of == SLICE else canvases[number - 1]
    placed = writing.place(canvas, box)
    return None if at is None or placed is None else (at + 1, placed)


def follow(truth: Truth, canvas: Canvas) -> Truth | None:
    """Boxes on the first medium, which alone is changed, and the numbers of its slices."""
    kept = []
    for number, box in truth.placed:
        at = canvas.see_slice(number - 1) if truth.of == SLICE else number - 1
        moved = canvas.clip_box(box) if truth.of == SLICE or number == 1 else box
        kept += [(at + 1, moved)] if at is not None and moved is not None else []
    was_sorted = list(truth.placed) == sorted(truth.placed)
    return truth.keep(sorted(kept) if was_sorted else kept) if kept or not truth.boxes else None


# --- score and measures -----------------------------------------------------------------------------


def score(answer: str, truth: Truth) -> float:
    gains, expected = _match(answer, truth)
    return min(1.0, sum(gains) / expected)


def hit_rate(answer: str, truth: Truth) -> float:
    """The share of boxes that gain at least 0.5."""
    gains, expected = _match(answer, truth)
    return sum(gain >= HIT_IOU for gain in gains) / expected


def find_right_numbers(answer: str, truth: Truth) -> float:
    """F1 of the numbers of images or slices that have a box, wherever it lies."""
    found, true = parse(answer, truth), set(truth.numbers)
    if found is None or not true:
        return float(found == [] and not true)
    named = {number for number, _ in found}
    return 2 * len(named & true) / (len(named) + len(true))


@lru_cache(maxsize=1 << 16)
def _match(answer: str, truth: Truth) -> tuple[tuple[float, ...], int]:
    """Gains of the matched pairs, and how many there should be."""
    read, true = _indexed.read(answer, truth.of, truth.find_extent, truth.label), truth.placed
    if read is None or not true:
        return (1.0,) if read is not None and not read[1] and not true else (), max(1, len(true))
    found, written = read
    return _indexed.match(found, true, truth.within if truth.of == SLICE else 0), max(written, len(true))


def is_unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer, truth) is None)


HIT_RATE, NUMBERS = "hit_rate", "numbers"
MEASURES = (
    Measure("mean_iou", "indexed_boxes", average(score), by_template=True, headline=True, words="mean IoU"),
    Measure(HIT_RATE, "indexed_boxes", average(hit_rate), by_template=True, headline=True),
    Measure(NUMBERS, "indexed_boxes", average(find_right_numbers), by_template=True, words="F1 of image numbers"),
    Measure("unreadable", "indexed_boxes", average(is_unreadable), better=None),
)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """Of the commonest answers in `truths`, the one that is best for the measure."""
    judge = {HIT_RATE: hit_rate, NUMBERS: find_right_numbers}.get(measure.metric if measure else "", score)
    commonest = [each for each, _ in Counter(_write(truth.placed, truth) for truth in truths).most_common(CANDIDATES)]
    judges = [truths[i * len(truths) // JUDGES] for i in range(JUDGES)] if len(truths) > JUDGES else truths
    return max(commonest, key=lambda answer: sum(judge(answer, truth) for truth in judges))


# --- rehearsal and report ---------------------------------------------------------------------------


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth] | None:
    question = make_question(rng, "indexed_boxes")
    if not is_sized(media):
        return None
    number, _ = draw_answer(rng)
    is_volume = len(media[0].size) == 3
    at = 1 + number % (media[0].size[0] if is_volume else len(media))
    size = media[0 if is_volume else at - 1].size
    if not all(size):
        return None
    return question, Truth("", (make_box(number, size),), (at,), "nodule", SLICE if is_volume else IMAGE)


def summarise(truth: Truth) -> str:
    return f"{len(truth.boxes)} {'box' if len(truth.boxes) == 1 else 'boxes'}"


def describe(answer: Any, truth: Truth) -> Drawing:
    """The picture beside an answer is of the first image, so only its boxes are drawn."""
    found = parse(answer, truth) if isinstance(answer, str) else None
    told = truth.answer.replace(SLOT, _indexed.write(truth.placed, truth.of, _brackets.write))
    return Drawing(told, boxes=_draw(truth.placed, truth), found=_draw(found or (), truth))


def _draw(placed: Sequence[PlacedBox], truth: Truth) -> tuple[LabelledBox, ...]:
    return mark([box for number, box in placed if truth.of == IMAGE and number == 1], truth.label)


_SIDE = (1000.0, 1000.0)
_OWN: dict[str, Any] = {"label": "nodule", "codec": "thousandths", "extents": (_SIDE, _SIDE, _SIDE)}
_TWO = Truth(
    "image 1: [100, 100, 200, 200]; image 3: [500, 500, 700, 600]",
    ((100, 100, 200, 200), (500, 500, 700, 600)),
    (1, 3),
    **_OWN,
)
_THICK = Truth("slice 14: [400, 400, 500, 500]", ((400, 400, 500, 500),), (14,), of=SLICE, within=1, **_OWN)
_NONE = Truth("none", **_OWN)
_GRID = "; ".join(f"image {number}: [0, 0, 1000, 1000]" for number in range(1, 51))
_STACK = "; ".join(f"slice {number}: [400, 400, 500, 500]" for number in range(1, 41))

EXAMPLES = [
    ("image 1: [100, 100, 200, 200]; image 3: [500, 500, 700, 600]", _TWO, 1.0),
    ("Image 3: [500, 500, 700, 600]\nImage 1: [100, 100, 200, 200]", _TWO, 1.0),
    ("A nodule lies in image #1 (100, 100, 200, 200) and image #3 (500, 500, 700, 600).", _TWO, 1.0),
    ("image 1: [100, 100, 200, 200]", _TWO, 0.5),
    ("image 2: [100, 100, 200, 200]; image 3: [500, 500, 700, 600]", _TWO, 0.5),
    ("image 2: [100, 100, 200, 200]", _TWO, 0.0),
    ("slice 14: [400, 400, 500, 500]", _THICK, 1.0),
    ("slice 15: [400, 400, 500, 500]", _THICK, 0.5),
    ("slice 16: [400, 400, 500, 500]", _THICK, 0.0),
    ("none", _NONE, 1.0),
    ("image 1: none", _NONE, 1.0),
    ("none", _TWO, 0.0),
    ("image 1: [100, 100, 200, 200]", _NONE, 0.0),
    # Boxes without a number, the same box on every image or slice, all images whole, denied ones, one that is cut.
    ("[100, 100, 200, 200], [500, 500, 700, 600]", _TWO, 0.0),
    ("; ".join(f"image {n}: [100, 100, 200, 200]" for n in range(1, 21)), _TWO, 1 / 20),
    (_GRID, _TWO, (0.01 + 0.02) / 50),
    (_STACK, _THICK, 1 / 40),
    ("not image 1: [100, 100, 200, 200]", _TWO, 0.0),
    ("image 1: [100, 100, 200, 200]; not image 3: [500, 500, 700, 600]", _TWO, 0.0),
    ("image 1: [100, 100, 200, 200]; image 3: [500, 500,", _TWO, 0.0),
    ("image 1, image 2, image 3", _TWO, 0.0),
    ("", _TWO, 0.0),
]
