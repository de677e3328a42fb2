"""What a mask is like, in words: how many parts it has, how large they are, and where they lie.

The rules are those of the prompts of a study of transfer (arXiv 2308.07706; naamiinepal/medvlsm at dc36a3af83,
utils/annotations/features_from_img.py): a part is large above 30 % of the image, medium above 8 %, tiny below 0.1 %,
and below 0.01 % it has no size. A part lies in the ninth of the image that holds a tenth of it, if there is only one
such ninth, and else in that of the centre of its box. Differing from the code, thirds of columns are of the width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvlm.data.components import list_components

SIZES = ((0.30, "large"), (0.08, "medium"), (0.001, "small"), (0.0001, "tiny"))
"""Share of the image above which a part is called so, from the largest."""
ORDER = ("tiny", "small", "medium", "large")
ROWS, COLUMNS = ("top", "center", "bottom"), ("left", "center", "right")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SIGNIFICANT = 0.1


def describe_mask(is_marked_HW: np.ndarray) -> dict[str, str]:
    """`number`: in words up to ten. `sizes` and `places`: with commas between several; sizes each once, from the
    smallest, and places one for each part. All but `number` are empty for an empty mask."""
    parts = list_components(is_marked_HW)
    sizes = {_name_size(float(part.mean())) for part in parts}
    count = len(parts)
    return {
        "number": NUMBERS[count] if count < len(NUMBERS) else str(count),
        "sizes": ", ".join(size for size in ORDER if size in sizes),
        "places": ", ".join(map(_name_place, parts)),
    }


def _name_size(share: float) -> str:
    return next((name for least, name in SIZES if share > least), "")


def _name_place(part_HW: np.ndarray) -> str:
    thirds = [[side * n // 3 for n in range(4)] for side in part_HW.shape]
    total = part_HW.sum()
    held = [
        (row, column)
        for row in range(3)
        for column in range(3)
        if part_HW[_between(thirds[0], row), _between(thirds[1], column)].sum() >= SIGNIFICANT * total
    ]
    if len(held) == 1:
        return _join(*held[0])
    along = zip(part_HW.nonzero(), part_HW.shape, strict=True)
    centres = [(float(at.min()) + float(at.max()) + 1) / 2 / side for at, side in along]
    return _join(*(min(int(3 * centre), 2) for centre in centres))


def _between(edges: Sequence[int], number: int) -> slice:
    return slice(edges[number], edges[number + 1])


def _join(row: int, column: int) -> str:
    """`top left`, `top`, `left` or `center`."""
    named = [ROWS[row]] * (row != 1) + [COLUMNS[column]] * (column != 1)
    return " ".join(named) or "center"
