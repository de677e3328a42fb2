"""How much two boxes overlap, and which box of one set stands for which of another."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

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

    Boxes that overlap nothing on the other side are put aside first; the rest costs rows^2 * columns.
    """
    overlaps = [[iou(a, b) for b in right] for a in left]
    rows = [i for i, row in enumerate(overlaps) if any(row)]
    columns = [j for j in range(len(right)) if any(overlaps[i][j] for i in rows)]
    if len(rows) > len(columns):
        pairs = [(i, j) for j, i in _assign([[-overlaps[i][j] for i in rows] for j in columns])]
    else:
        pairs = _assign([[-overlaps[i][j] for j in columns] for i in rows])
    matched = [(rows[i], columns[j], overlaps[rows[i]][columns[j]]) for i, j in pairs]
    return sorted(pair for pair in matched if pair[2] > 0)


def _assign(costs: list[list[float]]) -> list[tuple[int, int]]:
    """(row, column) for every row, of the smallest total cost; rows <= columns.

    The Hungarian method by shortest augmenting paths with potentials (Kuhn 1955; Jonker and Volgenant 1987).
    """
    num_columns = len(costs[0]) if costs else 0
    of_row, of_column = [0.0] * len(costs), [0.0] * num_columns
    row_of: list[int | None] = [None] * num_columns
    for start in range(len(costs)):
        distance, before = [inf] * num_columns, [-1] * num_columns
        done: list[int] = []
        open_columns = set(range(num_columns))
        row, column = start, -1
        while True:
            step, nearest = inf, -1
            for j in open_columns:
                reduced = costs[row][j] - of_row[row] - of_column[j]
                if reduced < distance[j]:
                    distance[j], before[j] = reduced, column
                if distance[j] < step:
                    step, nearest = distance[j], j
            of_row[start] += step
            for j in done:
                of_row[_taken(row_of[j])] += step
                of_column[j] -= step
            for j in open_columns:
                distance[j] -= step
            open_columns.remove(nearest)
            done.append(nearest)
            column = nearest
            if row_of[column] is None:
                break
            row = _taken(row_of[column])
        while column >= 0:
            row_of[column] = row_of[before[column]] if before[column] >= 0 else start
            column = before[column]
    return sorted((row, j) for j, row in enumerate(row_of) if row is not None)


def _taken(row: int | None) -> int:
    assert row is not None
    return row
