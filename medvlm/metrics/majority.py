"""The best answer that looks at nothing: one constant for all questions of a kind, fitted on the training split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean, median, median_low

from medvlm.answers import boxes, count
from medvlm.answers.choice import normalise
from medvlm.core.sample import Box, Truth
from medvlm.metrics.boxes import mean_iou

CANDIDATES, JUDGES = 60, 200
"""Box answers that are tried, and training questions they are tried on: the rest would cost time and change little."""


def best_constant(truths: Sequence[Truth]) -> str:
    """The answer text. truths: at least one, all of one task, boxes in the coordinates of answers.

    choice, open: the most frequent answer, the first of equals. count: the (lower) median, which has the
    smallest mean absolute error. boxes: of the training answers, and of the coordinate-wise median where every
    answer is a single box, the one with the largest mean IoU on training questions. (The median alone is
    poor where objects lie left or right: it is a box between them.)
    """
    if truths[0].task == "count":
        return count.write(median_low(truth.count for truth in truths if truth.count is not None))
    if truths[0].task == "boxes":
        return _best_boxes(truths)
    most, _ = Counter(normalise(truth.answer) for truth in truths).most_common(1)[0]
    return next(truth.answer for truth in truths if normalise(truth.answer) == most)


def _best_boxes(truths: Sequence[Truth]) -> str:
    candidates = [boxes.write(truth.boxes) for truth in _spread(truths, CANDIDATES)]
    if all(len(truth.boxes) == 1 for truth in truths):
        candidates.append(boxes.write([_median_box([truth.boxes[0] for truth in truths])]))
    judges = _spread(truths, JUDGES)
    return max(dict.fromkeys(candidates), key=lambda answer: mean(mean_iou(answer, truth) for truth in judges))


def _median_box(found: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = (median(side) for side in zip(*found, strict=True))
    return x1, y1, x2, y2


def _spread(truths: Sequence[Truth], most: int) -> list[Truth]:
    """At most that many, at equal distances."""
    return [truths[i * len(truths) // min(most, len(truths))] for i in range(min(most, len(truths)))]
