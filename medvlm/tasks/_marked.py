"""What a mask marks: its planes, its objects, and a pixel of one of its classes. A truth is that of mask.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medvlm.core.decoder_config import MISSING
from medvlm.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np

# numpy is imported where pixels are, since it takes as long to load as everything else of a reward.


def read_mask(truth: Any, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """bool [K, *size], and bool [*size] of the unmarked pixels where these have a label."""
    import numpy as np

    count = len(truth.classes)
    if truth.objects:
        is_unmarked = np.zeros(mask.shape, bool) if truth.unmarked is None else mask == truth.unmarked
        of_class = np.where((mask == 0) | is_unmarked, -1, (mask.astype(np.int64) - 1) % count)
        planes = np.stack([of_class == number for number in range(count)])
        return planes, None if truth.unmarked is None else is_unmarked
    highest = 1 if truth.overlapping else count
    other = (mask > highest) & (mask != (-1 if truth.unmarked is None else truth.unmarked))
    if other.any() or (truth.overlapping and len(mask) != count):
        what = f"label {int(mask[other][0])}" if other.any() else f"{len(mask)} planes"
        raise DataError(f"{truth.member}: {what}, and the mask is of {count} classes ({', '.join(truth.classes)})")
    planes = mask == 1 if truth.overlapping else np.stack([mask == number for number in range(1, count + 1)])
    if truth.unmarked is None:
        return planes, None
    return planes, (mask == truth.unmarked).any(0) if truth.overlapping else mask == truth.unmarked


def list_objects(
    truth: Any, masks: Mapping[str, np.ndarray], classes: Sequence[str], whole: bool = False, absent: bool = False
) -> list[tuple[int, np.ndarray]]:
    """For each object its class, by its number in `classes`, and int64 [*size]: 1 where it is, 0, and MISSING where
    nobody says. Where the mask knows no objects, and if `whole`, all pixels of a class are one. absent: that of a class
    without any pixel too."""
    import numpy as np

    mask = masks[truth.member]
    planes, unmarked = read_mask(truth, mask)
    found = []
    for number, name in enumerate(classes):
        if name not in truth.classes:
            continue
        plane = planes[truth.classes.index(name)]
        own = np.unique(mask[plane]).tolist() if truth.objects and not whole else [None]
        found += [(number, plane if label is None else mask == label) for label in own]
    blank = 0 if unmarked is None else MISSING * unmarked.astype(np.int64)
    return [(number, np.where(plane, 1, blank)) for number, plane in found if absent or plane.any()]


def draw_marked(
    truth: Any, masks: Mapping[str, np.ndarray], of_class: float, of_pixel: float
) -> tuple[int, ...] | None:
    import numpy as np

    mask, classes = masks[truth.member], len(truth.classes)
    if truth.overlapping:
        own = [plane == 1 for plane in mask if (plane == 1).any()]
    else:
        labels = [label for label in np.unique(mask).tolist() if label and label != truth.unmarked]
        classes_of = [(label - 1) % classes if truth.objects else label for label in labels]
        own = [
            np.isin(mask, [n for n, c in zip(labels, classes_of, strict=True) if c == each])
            for each in sorted(set(classes_of))
        ]
    if not own:
        return None
    plane = own[int(of_class * len(own))]
    pixels = np.flatnonzero(plane)
    return tuple(int(at) for at in np.unravel_index(pixels[int(of_pixel * len(pixels))], plane.shape))
