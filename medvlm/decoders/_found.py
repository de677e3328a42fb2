"""What decoders of boxes give: the surest boxes of an image, without those that say the same twice."""

from __future__ import annotations

from typing import Any

import torch

from medvlm.core.decoder_config import MISSING, MOST_BOXES

FOUND = 100
"""Boxes of an image that are given, at most; the surest."""


def make_no_objects() -> Any:
    """The label of an image of which nobody knows the objects: float32 [MOST_BOXES, 5], as of the task `detect`."""
    import numpy as np

    return np.full((MOST_BOXES, 5), MISSING, np.float32)


def choose_sure(scores_RK: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows and classes of scores above the least, the surest first, at most ten times as many as are given."""
    at, of = (scores_RK > least).nonzero(as_tuple=True)
    sure = scores_RK[at, of].argsort(descending=True)[: 10 * FOUND]
    return at[sure], of[sure]


def list_found(boxes: torch.Tensor, of: torch.Tensor, scores: torch.Tensor, overlap: float) -> torch.Tensor:
    """[FOUND, 2 + 2 x axes]: class, score and box of each, the surest first; rows of MISSING are none. Of two boxes of
    a class that overlap by more than this IoU, the surer one is kept. boxes: corners [M, 2 x axes]."""
    from monai.data.box_utils import batched_nms

    answers = boxes.new_full((FOUND, 2 + boxes.shape[1]), MISSING)
    if len(boxes):
        # It moves the boxes of each class apart by the largest coordinate, so none may be below 0.
        kept = batched_nms(boxes - boxes.min(), scores, of, overlap, max_proposals=FOUND)
        answers[: len(kept)] = torch.cat([of[kept, None].to(boxes), scores[kept, None], boxes[kept]], 1)
    return answers
