"""Masks as short text: `352x352 1021,3,349,5|`, a size and for each label the lengths of its runs.

Runs alternate, unmarked pixels first, in the order of an array's memory (row after row, slice after slice); COCO's
uncompressed RLE goes down the columns. A label without a pixel has no runs. P planes of bool, one a label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

_WRITTEN = re.compile(r"[0-9]{1,6}(?:x[0-9]{1,6}){1,2} [0-9,|]*")


def write_runs(planes: Sequence[np.ndarray]) -> str:
    """planes: bool or 0 and 1, of one shape [H, W] or [D, H, W]; at least one."""
    return f"{'x'.join(map(str, planes[0].shape))} {'|'.join(map(_write, planes))}"


def read_runs(text: str, planes: int, size: tuple[int, ...] = ()) -> np.ndarray | None:
    """bool [P, *size]; None for text that is not `planes` masks of this size (of any size where it is not given)."""
    if not _WRITTEN.fullmatch(text):
        return None
    shape, _, lines = text.partition(" ")
    found = tuple(map(int, shape.split("x")))
    each = lines.split("|")
    if (size and found != size) or len(each) != planes:
        return None
    masks = [_read(line, math.prod(found)) for line in each]
    if any(mask is None for mask in masks):
        return None
    return np.stack([mask for mask in masks if mask is not None]).reshape(planes, *found)


def _write(mask: np.ndarray) -> str:
    flat = np.asarray(mask, dtype=bool).ravel()
    if not flat.any():
        return ""
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    lengths = np.diff(edges).tolist()
    return ",".join(map(str, [0, *lengths] if flat[0] else lengths))


def _read(line: str, pixels: int) -> np.ndarray | None:
    if not line:
        return np.zeros(pixels, bool)
    lengths = [int(each) for each in line.split(",") if each]
    if sum(lengths) != pixels or line.count(",") != len(lengths) - 1:
        return None
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def write_numbers(labels: np.ndarray) -> str:
    """Whole numbers, 0 for none, [H, W] or [D, H, W]: `352x352 1021,3:1,349,5:2`. Runs of 0 have no number."""
    flat = labels.ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    runs = zip(np.diff(edges).tolist(), flat[edges[:-1]].tolist(), strict=True)
    written = ",".join(f"{length}:{number}" if number else str(length) for length, number in runs)
    return f"{'x'.join(map(str, labels.shape))} {written}"


def read_numbers(text: str) -> np.ndarray:
    """int64, what write_numbers() wrote."""
    size, _, written = text.partition(" ")
    runs = [run.partition(":") for run in written.split(",")]
    lengths, numbers = ([int(each or 0) for each in of] for of in ([r[0] for r in runs], [r[2] for r in runs]))
    return np.repeat(numbers, lengths).reshape(tuple(map(int, size.split("x"))))


def drop_candidates(text: str) -> str:
    """An answer without what stands behind its masks (_candidates.py)."""
    return " ".join(text.split(" ", 2)[:2])
