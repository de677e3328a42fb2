"""The loss of a decoder that gives a set of boxes: each object is matched with one of them, at the least cost in all
(Carion et al. 2020, arXiv 2005.12872, equations 1 and 2), and the others are of nothing.

As in Deformable DETR (arXiv 2010.04159) and Grounding DINO (arXiv 2303.05499): how well a box and a phrase agree is one
logit for each pair, with a focal loss over all pairs (GLIP, arXiv 2112.03857, section 3.1, calls it alignment); boxes
that are matched have an L1 in shares of the image and a generalized IoU. The costs of matching have the same weights.
Axes: Q boxes of an image, K phrases, T objects.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._matching import assign

SMALL = 1e-8
"""Keeps the logarithms of the matching finite."""


class Config(HeadLoss):
    kind: Literal["set_boxes"]
    align: float = Field(1.0, gt=0)
    """Weight of the alignment of boxes with phrases."""
    boxes: float = Field(5.0, ge=0)
    """Weight of the L1 of centres and sides."""
    giou: float = Field(2.0, ge=0)
    alpha: float = Field(0.25, gt=0, lt=1)
    """Weight of pairs that agree in the focal loss; that of the others is 1 - alpha."""
    gamma: float = Field(2.0, ge=0)


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "" if output == "box_set" else "matches a set of boxes with objects; use it with a decoder that gives a set"


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of objects."""
    return float((labels[..., 0] >= 0).sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, Q, K + 6]: the pairs with K phrases, centre and sides in shares of the input (y, x, height, width),
    and the input's height and width in pixels. labels: [N, T, 5], class and box (y1, x1, y2, x2) in pixels; rows below
    0 are no objects."""
    total = 0 * logits.float().sum()
    if logits.is_meta:  # a plan has no values to compare
        return total
    phrases = len(decoder.classes)
    for rows_Q, objects_T in zip(_widen(logits), labels, strict=True):
        known = objects_T[objects_T[:, 0] >= 0].to(rows_Q)
        true_T4 = to_centres(known[:, 1:] / rows_Q[0, phrases + 4 :].detach().repeat(2))
        total = total + _compare(config, rows_Q[:, :phrases], rows_Q[:, phrases : phrases + 4], known[:, 0], true_T4)
    return total


def _widen(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _compare(
    config: Config, told_QK: torch.Tensor, boxes_Q4: torch.Tensor, of_T: torch.Tensor, true_T4: torch.Tensor
) -> torch.Tensor:
    of_T = of_T.long()
    at, taken = match(config, told_QK.detach(), boxes_Q4.detach(), of_T, true_T4)
    wanted = torch.zeros_like(told_QK)
    wanted[at, of_T[taken]] = 1
    cross = binary_cross_entropy_with_logits(told_QK, wanted, reduction="none")
    right = torch.where(wanted > 0, told_QK.sigmoid(), 1 - told_QK.sigmoid())
    alpha = torch.where(wanted > 0, config.alpha, 1 - config.alpha)
    aligned = (alpha * (1 - right) ** config.gamma * cross).sum()
    placed = (boxes_Q4[at] - true_T4[taken]).abs().sum()
    overlaps = find_giou(to_corners(boxes_Q4[at]), to_corners(true_T4[taken])).diagonal()
    return config.align * aligned + config.boxes * placed + config.giou * (1 - overlaps).sum()


def match(
    config: Config, told_QK: torch.Tensor, boxes_Q4: torch.Tensor, of_T: torch.Tensor, true_T4: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of boxes and of the objects that they are matched with."""
    share_QK = told_QK.sigmoid()
    agrees = config.alpha * (1 - share_QK) ** config.gamma * -(share_QK + SMALL).log()
    differs = (1 - config.alpha) * share_QK**config.gamma * -(1 - share_QK + SMALL).log()
    cost_QT = config.align * (agrees - differs)[:, of_T]
    cost_QT = cost_QT + config.boxes * (boxes_Q4[:, None] - true_T4).abs().sum(2)
    cost_QT = cost_QT - config.giou * find_giou(to_corners(boxes_Q4), to_corners(true_T4))
    return assign(cost_QT)


def find_giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Corners [A, 4] and [B, 4] -> generalized IoU [A, B] (Rezatofighi et al. 2019, arXiv 1902.09630, algorithm 1)."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    own, other = ((each[:, 2:] - each[:, :2]).prod(1) for each in (a, b))
    union = own[:, None] + other - shared
    around = (torch.maximum(a[:, None, 2:], b[:, 2:]) - torch.minimum(a[:, None, :2], b[:, :2])).clamp(min=0).prod(2)
    least = torch.finfo(around.dtype).tiny
    return shared / union.clamp(min=least) - (around - union) / around.clamp(min=least)


def to_corners(boxes: torch.Tensor) -> torch.Tensor:
    """Centre and sides [..., 4] -> lower and upper corner."""
    centres, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centres - half, centres + half], -1)


def to_centres(corners: torch.Tensor) -> torch.Tensor:
    """The inverse of to_corners()."""
    return torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1)
