"""What the rewards for boxes share: boxes are matched one to one, and each pair is paid by how well it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from medvlm.core.sample import Box, Truth
from medvlm.core.tasks import find_task
from medvlm.tasks._matching import assign

Fit = Callable[[Box, Box], float]
"""How well two boxes with an area fit, in [-1, 1]."""
MOST = 200
"""Boxes of an answer that are looked at. More than that earn nothing."""


def has_boxes(truth: Truth) -> bool:
    return find_task(truth.task).NEEDS_CANVAS and hasattr(truth, "boxes") and hasattr(truth, "written")


def pay(completion: str, truth: Any, fit: Fit) -> float:
    """The sum over matched pairs of (1 + fit) / 2 times the ratio of their areas, the smaller over the larger; divided
    by the larger number of boxes. Where `any_of` several boxes is right, one is expected, and the best pair is paid. A
    truth without boxes pays 1 for `none`, and an answer without boxes earns nothing otherwise.

    The ratio of areas is ours: without it, the box of the whole image would earn more than half of the reward, and more
    than an honest box beside the right place.
    """
    found: Sequence[Box] | None = find_task(truth.task).parse(completion, truth)
    if found is None or len(found) > MOST:
        return 0.0
    if not found or not truth.boxes:
        return float(not found and not truth.boxes)
    gains = [[_pay_pair(box, true, fit) for true in truth.boxes] for box in found]
    total = max(map(max, gains)) if truth.any_of else sum(gains[i][j] for i, j in assign(gains))
    return min(1.0, total / max(len(found), len(truth.written)))


def _pay_pair(box: Box, true: Box, fit: Fit) -> float:
    small, large = sorted((find_area(box), find_area(true)))
    return max(0.0, (1 + fit(box, true)) / 2 * small / large)


def find_area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def find_frame(a: Box, b: Box) -> Box:
    """The smallest box around both."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
