"""Which pixels show what: a mask of one or several labels, which a decoder gives.

An answer is text, see _runs.py: a plane for each class of the truth, on the canvas that the model perceives. Dice, IoU,
NSD and volume similarity of a class that neither truth nor answer marks are 1, and 0 where only one of them marks it;
its HD95 is 0, and the longest distance within the image where only one of them marks it. A question counts with the
mean over its classes, whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.decoder_config import MISSING
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium
from medvlm.core.tasks import Drawing, MarkedMask
from medvlm.tasks._made_up import make_question
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
    """

    classes: tuple[str, ...] = ()
    member: str = ""
    overlapping: bool = False
    unmarked: int | None = None
    runs: str = ""
    spacing_mm: tuple[float, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        return (self.member,) if self.member else ()

    def rename(self, members: Mapping[str, str]) -> Truth:
        return replace(self, member=members.get(self.member, self.member))


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
    if not media or media[0].member.partition(".")[0] != truth.member.partition(".")[0]:
        raise DataError(f"{truth.member} is no mask of the sample's first medium")


def has_coordinates(truth: Truth) -> bool:
    return True


def follow(truth: Truth, canvas: Canvas) -> Truth | None:
    return truth  # the pixels of its member follow


# --- between pixels, labels and text ----------------------------------------------------------------


def hold(truth: Truth, masks: Mapping[str, np.ndarray], spacing_mm: tuple[float, ...] | None = None) -> Truth:
    from medvlm.tasks._runs import write_runs

    planes, unmarked = _planes(truth, masks[truth.member])
    runs = write_runs([*planes, *([] if unmarked is None else [unmarked])])
    return replace(truth, runs=runs, spacing_mm=spacing_mm or ())


def target(truth: Truth, masks: Mapping[str, np.ndarray], classes: Sequence[str], exclusive: bool) -> np.ndarray:
    """int64 [*size], 0 for none and 1 + the class, where classes exclude each other (of those that overlap the last
    one), else [K, *size] of 0 and 1. A class that the mask does not speak of is MISSING.

    Raises DataError for such a class among those that exclude each other: any pixel without a label may be of it.
    """
    import numpy as np

    planes, unmarked = _planes(truth, masks[truth.member])
    absent = [name for name in classes if name not in truth.classes]
    if absent and exclusive:
        raise DataError(
            f"its mask does not speak of {absent[0]!r} (it has {', '.join(truth.classes)}), and exclusive classes are"
            " known together; set `exclusive: false` in the decoder, or leave the class out"
        )
    of_class = dict(zip(truth.classes, planes, strict=True))
    if exclusive:
        labels = np.zeros(planes.shape[1:], np.int64)
        for number, name in enumerate(classes, 1):
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
    nowhere."""
    import numpy as np

    from medvlm.tasks._runs import write_runs

    if exclusive:
        labels = probabilities.argmax(0)
        found = {name: labels == number for number, name in enumerate(classes, 1)}
    else:
        found = {name: probabilities[number] > 0.5 for number, name in enumerate(classes)}
    nowhere = np.zeros(probabilities.shape[1:], bool)
    return write_runs([found.get(name, nowhere) for name in truth.classes])


def _planes(truth: Truth, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """bool [K, *size], and bool [*size] of the unmarked pixels where these have a label."""
    import numpy as np

    count = len(truth.classes)
    highest = 1 if truth.overlapping else count
    other = (mask > highest) & (mask != (-1 if truth.unmarked is None else truth.unmarked))
    if other.any() or (truth.overlapping and len(mask) != count):
        what = f"label {int(mask[other][0])}" if other.any() else f"{len(mask)} planes"
        raise DataError(f"{truth.member}: {what}, and the mask is of {count} classes ({', '.join(truth.classes)})")
    planes = mask == 1 if truth.overlapping else np.stack([mask == number for number in range(1, count + 1)])
    if truth.unmarked is None:
        return planes, None
    return planes, (mask == truth.unmarked).any(0) if truth.overlapping else mask == truth.unmarked


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
    size, _, lines = runs.partition(" ")
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
