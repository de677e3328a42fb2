"""Which pixels show what: a mask of one or several labels, which a decoder gives.

An answer is text, see _runs.py: a plane for each class of the truth, on the canvas that the model perceives. Dice, IoU,
NSD and volume similarity of a class that neither truth nor answer marks are 1, and 0 where only one of them marks it;
its HD95 is 0, and the longest distance within the image where only one of them marks it. A question counts with the
mean over its classes, whatever their sizes. Two measures look at one side each: the IoU of classes that the truth
marks, and how often a class that it does not mark is left empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.decoder_config import MISSING, MOST_OPEN, join_background
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium
from medvlm.core.tasks import Drawing, MarkedMask
from medvlm.tasks._made_up import make_question
from medvlm.tasks._marked import draw_marked, list_objects, read_mask  # noqa: F401
from medvlm.tasks._mask_measures import MEASURES, best_constant, count, dice  # noqa: F401

if TYPE_CHECKING:
    import numpy as np

    from medvlm.core.geometry import Canvas

# numpy is imported where pixels are, since it takes as long to load as everything else of a reward.


@dataclass(frozen=True)
class Truth(sample.Truth):
    """The mask of medium 0. member: of the sample, e.g. `0.mask.png`: a map of labels, 0 for none and 1 for the first
    of `classes`; where they are `overlapping`, [K, *size] with a plane of 0 and 1 for each.

    unmarked: the label of pixels of which nobody says what they show; they count for nothing. runs: a plane for each of
    `classes`, and one of the unmarked pixels where there are such, as the model perceives them; "" in a shard.
    spacing_mm: of these planes; () if unknown, and in a shard.

    objects: whether labels also say which object a pixel is of: label - 1 is the class (0 for the first) + the number
    of classes * the number of the object. numbered: these labels, as the model perceives them (_runs.py).

    second: the member of another reader, labels or overlapping planes of the same classes. second_runs: as runs.
    """

    classes: tuple[str, ...] = ()
    member: str = ""
    overlapping: bool = False
    unmarked: int | None = None
    runs: str = ""
    spacing_mm: tuple[float, ...] = ()
    objects: bool = False
    numbered: str = ""
    second: str = ""
    second_runs: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.member, self.second)))

    def rename(self, members: Mapping[str, str]) -> Truth:
        member, second = (members.get(name, name) for name in (self.member, self.second))
        return replace(self, member=member, second=second)


class Config(Base):
    kind: Literal["mask"]
    classes: tuple[str, ...] = Field(min_length=1)
    """What the labels 1, 2 ... of the mask are."""


ANSWERED_BY = "maps"
NEEDS_CANVAS = True
FOLLOWS_CROPS = FOLLOWS_WARPS = True
TITLE = "Masks"


def check(truth: Truth, media: Sequence[Medium]) -> None:
    if not truth.classes or not truth.member:
        raise DataError("a mask without classes, or without the member that holds it")
    if truth.objects and truth.overlapping:
        raise DataError(f"{truth.member}: classes overlap, so a pixel has no single object; leave out `objects`")
    if not media or media[0].member.partition(".")[0] != truth.member.partition(".")[0]:
        raise DataError(f"{truth.member} is no mask of the sample's first medium")


def has_coordinates(truth: Truth) -> bool:
    return True


def follow(truth: Truth, canvas: Canvas) -> Truth | None:
    return truth  # the pixels of its member follow


# --- between pixels, labels and text ----------------------------------------------------------------


def hold(truth: Truth, masks: Mapping[str, np.ndarray], spacing_mm: tuple[float, ...] | None = None) -> Truth:
    from medvlm.tasks._runs import write_numbers, write_runs

    mask = masks[truth.member]
    planes, unmarked = read_mask(truth, mask)
    runs = write_runs([*planes, *([] if unmarked is None else [unmarked])])
    numbered = write_numbers(mask if unmarked is None else mask * ~unmarked) if truth.objects else ""
    second = ""
    if truth.second:
        other = masks[truth.second]
        read = Truth(classes=truth.classes, member=truth.second, overlapping=other.ndim == planes.ndim)
        second = write_runs([*read_mask(read, other)[0]])
    return replace(truth, runs=runs, spacing_mm=spacing_mm or (), numbered=numbered, second_runs=second)


def target(truth: Truth, masks: Mapping[str, np.ndarray], classes: Sequence[str], exclusive: bool) -> np.ndarray:
    """int64 [*size], 0 for none and 1 + the class, where classes exclude each other (of those that overlap the last
    one), else [K, *size] of 0 and 1. A class that the mask does not speak of is MISSING; among those that exclude each
    other, any pixel without a label may be of it, see join_background().

    Raises DataError for a mask of none of the classes, and for one of some of more than MOST_OPEN exclusive classes.
    """
    import numpy as np

    planes, unmarked = read_mask(truth, masks[truth.member])
    absent = [number for number, name in enumerate(classes) if name not in truth.classes]
    known = f"its mask speaks of {', '.join(truth.classes)}"
    if len(absent) == len(classes):
        raise DataError(f"{known}, and of no class of the decoder")
    if absent and exclusive and len(classes) > MOST_OPEN:
        raise DataError(
            f"{known}, but not of {classes[absent[0]]!r}, which a decoder of more than {MOST_OPEN} exclusive classes"
            " needs; set `exclusive: false` in the decoder"
        )
    of_class = dict(zip(truth.classes, planes, strict=True))
    if exclusive:
        labels = np.full(planes.shape[1:], join_background(absent) if absent else 0)
        for number, name in enumerate(classes, 1):
            if name in of_class:
                labels[of_class[name]] = number
    else:
        missing = np.full(planes.shape[1:], MISSING)
        labels = np.stack([of_class.get(name, missing).astype(np.int64) for name in classes])
    if unmarked is not None:
        labels[..., unmarked] = MISSING
    return labels


def decode(probabilities: np.ndarray, truth: Truth, classes: Sequence[str], exclusive: bool) -> str:
    """probabilities: [1 + K, *pixels], the background in front, where classes exclude each other: a pixel is of the
    most probable; else [K, *pixels]: of each that is more probable than not. A class that the decoder does not have is
    nowhere. With candidates (_candidates.py) where the truth knows objects."""
    import numpy as np

    from medvlm.tasks._runs import write_runs

    if exclusive:
        labels, probabilities = probabilities.argmax(0), probabilities[1:]
        found = {name: labels == number for number, name in enumerate(classes, 1)}
    else:
        found = {name: probabilities[number] > 0.5 for number, name in enumerate(classes)}
    nowhere = np.zeros(probabilities.shape[1:], bool)
    text = write_runs([found.get(name, nowhere) for name in truth.classes])
    if not truth.objects:
        return text
    from medvlm.tasks._candidates import find_candidates, write_candidates

    sure = dict(zip(classes, probabilities, strict=True))
    candidates = [find_candidates(sure[name]) if name in sure else () for name in truth.classes]
    return f"{text} {write_candidates(candidates)}"


# --- score and measures -----------------------------------------------------------------------------


def parse(text: str, truth: Truth) -> np.ndarray | None:
    """bool [K, *size] of the truth's classes and size; None for anything else."""
    from medvlm.tasks._overlap import read_planes, size_of

    return read_planes(text, len(truth.classes), size_of(truth.runs)) if isinstance(text, str) else None


def score(answer: Any, truth: Truth) -> float:
    """The mean Dice of its classes."""
    return sum(dice(*counts) for counts in count(answer, truth)) / len(truth.classes)


# --- rehearsal and report ---------------------------------------------------------------------------


def make_labelled(
    rng: np.random.Generator, media: Sequence[Medium], classes: Sequence[str], exclusive: bool
) -> tuple[str, Truth, dict[str, np.ndarray]] | None:
    import numpy as np

    if not media or not all(media[0].size):
        return None
    member = f"{media[0].member.partition('.')[0]}.mask"
    labels = np.zeros(media[0].size, np.uint8)
    for number in range(1, len(classes) + 1):
        corner = [int(rng.integers(0, max(side // 2, 1))) for side in labels.shape]
        labels[tuple(slice(at, at + max(side // 3, 1)) for at, side in zip(corner, labels.shape, strict=True))] = number
    return make_question(rng, "mask"), Truth(classes=tuple(classes), member=member), {member: labels}


def summarise(truth: Truth) -> str:
    return f"a mask of {', '.join(truth.classes)}"


def describe(answer: Any, truth: Truth) -> Drawing:
    found = answer if isinstance(answer, str) and truth.runs and parse(answer, truth) is not None else ""
    return Drawing(
        summarise(truth),
        masks=_separate(truth.runs, truth.classes),
        found_masks=_separate(found, truth.classes),
        answer=_say(answer, truth),
    )


def _say(answer: Any, truth: Truth) -> str:
    """`polyp: 1,024 pixels, Dice 0.81`."""
    if answer is None or not truth.runs:
        return ""
    if not isinstance(answer, str) or parse(answer, truth) is None:
        return "cannot be read"
    counts = zip(truth.classes, count(answer, truth), strict=True)
    return "; ".join(f"{name}: {each[1]:,} pixels, Dice {dice(*each):.2f}" for name, each in counts)


def _separate(runs: str, classes: Sequence[str]) -> tuple[MarkedMask, ...]:
    from medvlm.tasks._runs import drop_candidates

    size, _, lines = drop_candidates(runs).partition(" ")
    return (
        tuple((f"{size} {line}", name) for line, name in zip(lines.split("|"), classes, strict=False)) if runs else ()
    )


_ONE = Truth(classes=("lesion",), member="0.mask.png", runs="4x4 5,2,2,2,5")
_TWO = Truth(classes=("liver", "spleen"), member="0.mask.png", runs="4x4 0,4,12|12,4")
_NONE = Truth(classes=("lesion",), member="0.mask.png", runs="4x4 ")
_PART = Truth(classes=("lesion",), member="0.mask.png", unmarked=255, runs="4x4 0,4,12|4,12")

EXAMPLES = [
    ("4x4 5,2,2,2,5", _ONE, 1.0),
    ("4x4 5,2,9", _ONE, 2 / 3),
    ("4x4 ", _ONE, 0.0),
    ("4x4 0,5,2,2,2,5", _ONE, 0.0),
    ("4x4 0,4,12|12,4", _TWO, 1.0),
    ("4x4 12,4|0,4,12", _TWO, 0.0),
    ("4x4 0,4,12|", _TWO, 0.5),
    ("4x4 ", _NONE, 1.0),
    ("4x4 0,1,15", _NONE, 0.0),
    # What nobody marked counts for nothing, whatever is said of it.
    ("4x4 0,16", _PART, 1.0),
    ("4x4 4,12", _PART, 0.0),
    # Everything marked earns little; another size, too few or too many planes, and words earn nothing.
    ("4x4 0,16", _ONE, 0.4),
    ("4x4 0,16|0,16", _TWO, 0.4),
    ("2x8 5,2,2,2,5", _ONE, 0.0),
    ("4x4 0,4,12", _TWO, 0.0),
    ("4x4 5,2,2,2,5|5,2,2,2,5", _ONE, 0.0),
    ("4x4 5,2,2,2", _ONE, 0.0),
    ("4x4 5,2,2,2,5,0,0", _ONE, 1.0),
    ("999999x999999 0,999998000001", _ONE, 0.0),
    ("4x4 -5,9,12", _ONE, 0.0),
    ("I cannot tell", _ONE, 0.0),
    ("I cannot tell", _NONE, 0.0),
]
