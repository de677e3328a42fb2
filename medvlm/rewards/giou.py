"""Boxes by their generalised IoU, so that a box beside the right place earns more the nearer it is.

GIoU = IoU - (C - union) / C, with C the area of the smallest box around both: in (-1, 1]. Source: Rezatofighi et al.
2019, https://arxiv.org/abs/1902.09630; as a reward in MedMO, https://arxiv.org/abs/2602.06965. Deviation: see
rewards/_boxes.pay."""

from __future__ import annotations

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Box, Truth, make_truth
from medvlm.rewards._boxes import find_area, find_frame, has_boxes, pay
from medvlm.tasks._matching import iou


class Config(RewardConfig):
    pass


def applies(truth: Truth, config: Config) -> bool:
    return has_boxes(truth)


def score(completion: str, truth: Truth, config: Config) -> float:
    return pay(completion, truth, find_giou)


def find_giou(a: Box, b: Box) -> float:
    overlap = iou(a, b)
    union = (find_area(a) + find_area(b)) / (1 + overlap)  # shared = overlap * union
    frame = find_area(find_frame(a, b))
    return overlap - (frame - union) / frame


_ONE = make_truth("boxes", boxes=((400, 400, 500, 500),))
_TWO = make_truth("boxes", boxes=((0, 0, 100, 100), (500, 500, 700, 600)))
_ANY = make_truth("boxes", boxes=((0, 0, 100, 100), (500, 500, 700, 600)), any_of=True)
_NONE = make_truth("boxes")
_GRID = ", ".join(f"[{x}, {y}, {x + 100}, {y + 100}]" for x in range(0, 1000, 100) for y in range(0, 1000, 100))

EXAMPLES = [
    ("[400, 400, 500, 500]", _ONE, 1.0),
    ("[500, 500, 700, 600], [0, 0, 100, 100]", _TWO, 1.0),
    ("none", _NONE, 1.0),
    ("[500, 500, 700, 600]", _ANY, 1.0),
    ("[500, 500, 700, 600], [500, 500, 700, 600]", _ANY, 0.5),
    # Beside it: 1/2 for a box that touches it, less for one far away.
    ("[500, 400, 600, 500]", _ONE, 0.5),
    ("[800, 400, 900, 500]", _ONE, 0.2),
    ("[0, 0, 100, 100]", _TWO, 0.5),
    ("none", _ONE, 0.0),
    ("[400, 400, 500, 500]", _NONE, 0.0),
    # The whole image, boxes everywhere, one box many times, one without an area, a long list, a sentence.
    ("[0, 0, 1000, 1000]", _ONE, (1 + 0.01) / 2 * 0.01),
    (_GRID, _ONE, 0.01),
    ("[400, 400, 500, 500], [400, 400, 500, 500], [400, 400, 500, 500]", _ONE, 1 / 3),
    ("[500, 500, 400, 400]", _ONE, 0.0),
    ("[400, 400, 500, 500], " * 201, _ONE, 0.0),
    ("The box is where the finding is.", _ONE, 0.0),
]
