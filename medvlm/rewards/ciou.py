"""Boxes by their complete IoU, which also counts how far apart their centres are, and how their shapes differ.

CIoU = IoU - d^2 / c^2 - a v: d is the distance of the centres, c the diagonal of the smallest box around both,
v = (2 / pi)^2 (atan(w / h) - atan(w' / h'))^2 and a = v / (1 - IoU + v). Source: Zheng et al. 2020,
https://arxiv.org/abs/1911.08287, equations 7 to 11; as a reward in MedVision. Deviation: see rewards/_boxes.pay."""

from __future__ import annotations

import math

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Box, Truth, make_truth
from medvlm.rewards._boxes import find_frame, has_boxes, pay
from medvlm.tasks._matching import iou


class Config(RewardConfig):
    pass


def applies(truth: Truth, config: Config) -> bool:
    return has_boxes(truth)


def score(completion: str, truth: Truth, config: Config) -> float:
    return pay(completion, truth, find_ciou)


def find_ciou(a: Box, b: Box) -> float:
    overlap, frame = iou(a, b), find_frame(a, b)
    apart = (a[0] + a[2] - b[0] - b[2]) ** 2 / 4 + (a[1] + a[3] - b[1] - b[3]) ** 2 / 4
    diagonal = (frame[2] - frame[0]) ** 2 + (frame[3] - frame[1]) ** 2
    shape = (math.atan2(a[2] - a[0], a[3] - a[1]) - math.atan2(b[2] - b[0], b[3] - b[1])) ** 2 * (2 / math.pi) ** 2
    penalty = shape * shape / (1 - overlap + shape) if shape else 0.0
    return overlap - apart / diagonal - penalty


_ONE = make_truth("boxes", boxes=((400, 400, 500, 500),))
_TWO = make_truth("boxes", boxes=((0, 0, 100, 100), (500, 500, 700, 600)))
_NONE = make_truth("boxes")
_GRID = ", ".join(f"[{x}, {y}, {x + 100}, {y + 100}]" for x in range(0, 1000, 100) for y in range(0, 1000, 100))

EXAMPLES = [
    ("[400, 400, 500, 500]", _ONE, 1.0),
    ("[500, 500, 700, 600], [0, 0, 100, 100]", _TWO, 1.0),
    ("none", _NONE, 1.0),
    # Beside it: d^2 / c^2 is 100^2 / (200^2 + 100^2), then 400^2 / (500^2 + 100^2).
    ("[500, 400, 600, 500]", _ONE, (1 - 0.2) / 2),
    ("[800, 400, 900, 500]", _ONE, (1 - 16 / 26) / 2),
    ("none", _TWO, 0.0),
    ("[0, 0, 100, 100]", _NONE, 0.0),
    # The whole image around a centred box, boxes everywhere, one box many times, one without an area.
    ("[0, 0, 900, 900]", _ONE, (1 + 1 / 81) / 2 / 81),
    (_GRID, _ONE, 0.01),
    ("[400, 400, 500, 500], [400, 400, 500, 500], [400, 400, 500, 500]", _ONE, 1 / 3),
    ("[500, 500, 400, 400]", _ONE, 0.0),
]
