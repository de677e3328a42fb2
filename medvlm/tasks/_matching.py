"""How much two boxes overlap, and which box of one set is matched with which of another."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.sample import Box


def iou(a: Box, b: Box) -> float:
    """Intersection over union, in [0, 1]. Both boxes have an area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def match(left: Sequence[Box], right: Sequence[Box]) -> list[tuple[int, int, float]]:
    """(i, j, IoU) of the one-to-one matching with the largest sum of IoU, without pairs that do not overlap.

    Boxes that overlap nothing on the other side are put aside first.
    """
    overlaps = [[iou(a, b) for b in right] for a in left]
    rows = [i for i, row in enumerate(overlaps) if any(row)]
    columns = [j for j in range(len(right)) if any(overlaps[i][j] for i in rows)]
    pairs = assign([[overlaps[i][j] for j in columns] for i in rows])
    matched = [(rows[i], columns[j], overlaps[rows[i]][columns[j]]) for i, j in pairs]
    return sorted(pair for pair in matched if pair[2] > 0)


def assign(gains: list[list[float]]) -> list[tuple[int, int]]:
    """(row, column) of min(rows, columns) pairs with the largest total gain."""
    if not gains:
        return []
    if len(gains) == 1:  # scipy takes half a second to load, and one object is the usual case
        return [(0, gains[0].index(max(gains[0])))]
    if len(gains[0]) == 1:
        column = [row[0] for row in gains]
        return [(column.index(max(column)), 0)]
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(gains, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
