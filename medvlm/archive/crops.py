"""Parts of an image that become images of their own: objects in their boxes, and patches on a class of a mask and
beside it.

Axes: H, W height and width of the image in pixels.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from pydantic import Field

from medvlm.archive.masks import MaskFiles, read_masks
from medvlm.archive.tables.columns import Row
from medvlm.archive.tables.wording import choose
from medvlm.core.config import Config
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Decoded, Medium, Question, Sample, make_truth
from medvlm.io.images import decode
from medvlm.io.strip import read_orientation

BACKGROUND = "background"
LEAST_SHOWN = 0.25
"""Share of the pixels of a patch that differ from the one before them."""


class Patches(Config):
    """Square patches in place of the images. In the middle of one half of them is a pixel of a class. The other half
    shows nothing of it but lies beside it, at most one patch away, so that its place does not tell. The image stands
    for the patient where the card names none."""

    of: str
    """The class. It has an entry in `masks`."""
    side_px: int = Field(gt=0)
    each: int = Field(gt=0)
    """Patches of either half in an image. Where there is no room for as many, the rest goes into the quarantine."""
    wordings: tuple[str, ...] = Field(("What does the middle of this patch show?",), min_length=1)
    template: str = "patch"
    """What the question is called."""

    @property
    def answers(self) -> tuple[str, str]:
        return self.of, BACKGROUND


def make_patch(
    asked: Patches, masks: tuple[MaskFiles, ...], root: Path, image: str, row: Row, number: int, told: tuple[str, ...]
) -> RawSample:
    """The patch of this number, from 0 on; of even numbers one with the class. told: kind of the medium, modality,
    patient and split. Raises DataError if the image has no room for it."""
    kind, modality, patient, split = told
    found = _find_in_image(masks, root, image, tuple(row.items()), (asked.side_px, asked.each))[number % 2]
    answer = asked.answers[number % 2]
    if number // 2 >= len(found):
        raise DataError(f"its image has only {len(found)} patches of {asked.side_px} pixels with {answer}")
    y, x = found[number // 2]
    box = float(x), float(y), float(x + asked.side_px), float(y + asked.side_px)
    truth = make_truth("labels", classes=asked.answers, labels=tuple(each == answer for each in asked.answers))
    key = f"{image}-{number}"
    question = Question(choose(asked.wordings, key, asked.template), truth, asked.template)
    medium = Medium(kind, "0", (), modality=modality)
    sample = Sample(key, "", split, (medium,), answer, answer, (question,), patient or image, {"class": answer})
    return RawSample(sample, {"0": partial(load_crop, root / image, box, 0.0)}, f"patch {number} of its image")


Places = tuple[list[tuple[int, int]], list[tuple[int, int]]]
"""Upper left corners (y, x) of patches with the class, and of patches without it."""


def find_patches(extent_HW: np.ndarray, shown_HW: np.ndarray, side_px: int, count: int, key: str) -> Places:
    """Up to `count` patches with a marked pixel in the middle, and as many without one, beside one. shown_HW: pixels
    that differ from the one before them, so that the black around an image is no background. key: what they are drawn
    by, without replacement."""
    if min(extent_HW.shape) < side_px:
        return [], []
    middle = side_px // 2
    rows, columns = (n - side_px + 1 for n in extent_HW.shape)
    has_it = extent_HW[middle : middle + rows, middle : middle + columns]
    within = _count_marked(extent_HW, side_px)
    is_shown = _count_marked(shown_HW, side_px) >= LEAST_SHOWN * side_px**2
    around = _count_marked(np.pad(extent_HW, side_px), 3 * side_px)
    seed = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=b"patches").digest()
    rng = np.random.default_rng(int.from_bytes(seed, "big"))
    drawn = []
    for is_wanted in (has_it, (within == 0) & (around > 0)):
        places = np.argwhere(is_wanted & is_shown)
        chosen = rng.permutation(len(places))[:count]
        drawn.append([(int(y), int(x)) for y, x in places[chosen]])
    return drawn[0], drawn[1]


def _count_marked(extent_HW: np.ndarray, side_px: int) -> np.ndarray:
    """The number of marked pixels in every square of this side, by its upper left corner."""
    sums = np.pad(extent_HW.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    found: np.ndarray = sums[side_px:, side_px:] - sums[:-side_px, side_px:] - sums[side_px:, :-side_px]
    return found + sums[:-side_px, :-side_px]


@lru_cache(maxsize=1)  # the patches of an image come one after the other
def _find_in_image(
    masks: tuple[MaskFiles, ...], root: Path, image: str, row: tuple[tuple[str, str], ...], sizes: tuple[int, int]
) -> Places:
    (extent_HW,) = read_masks(masks, root, dict(row)).extents.values()
    pixels = _read_image(root / image)
    if extent_HW.shape != pixels.shape[:2]:
        raise DataError(f"its mask has the size {list(extent_HW.shape)}, and the image {list(pixels.shape[:2])}")
    shown_HW = np.zeros(extent_HW.shape, bool)
    flat = pixels.reshape(*pixels.shape[:2], -1)
    shown_HW[:, 1:] = (flat[:, 1:] != flat[:, :-1]).any(-1)
    return find_patches(extent_HW, shown_HW, *sizes, image)


def load_crop(path: Path, box: Box, margin: float) -> Decoded:
    """A box of an image and what lies around it, as far as the image goes."""
    pixels = _read_image(path)
    (height, width), (x1, y1, x2, y2) = pixels.shape[:2], box
    across, down = margin * (x2 - x1), margin * (y2 - y1)
    left, top = max(math.floor(x1 - across), 0), max(math.floor(y1 - down), 0)
    right, bottom = min(math.ceil(x2 + across), width), min(math.ceil(y2 + down), height)
    if left >= right or top >= bottom:
        raise DataError("a box that lies outside of its image")
    return Decoded(pixels[top:bottom, left:right])


@lru_cache(maxsize=1)  # the objects of an image come one after the other
def _read_image(path: Path) -> np.ndarray:
    data = path.read_bytes()
    if read_orientation(data) != 1:
        raise DataError(
            "its EXIF turns or mirrors its image, and whether its boxes lie on the image as stored or as shown is not"
            " known; turn the pixels (e.g. mogrify -auto-orient), and check the annotations"
        )
    return decode(data, "its image")
