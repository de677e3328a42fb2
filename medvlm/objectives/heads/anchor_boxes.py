"""The loss of a decoder of anchors: which of them are an object, and where the object's box is.

An anchor is of the object that it overlaps most, if their IoU is at least `positive`; the best anchors of each object
are always its own. Those below `negative` are of none, and the others count for nothing (RetinaNet, arXiv 1708.02002,
section 4.1). `all`: the focal loss over all anchors that count, divided by the number of those of an object (equation
5). `mined`: as in Retina U-Net (arXiv 1811.08661; code MIC-DKFZ/medicaldetectiontoolkit): cross-entropy of the anchors
of objects, and of as many others, out of the hardest; the mean of both means. There those are drawn from a pool by
chance, here every POOLth of it is taken, or the hardest where the pool is too small for that. Boxes have a smooth L1 of
the offsets of anchors of objects.

Axes: A anchors, T objects, X axes.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from medvlm.core.decoder_config import ANCHOR_STD, DecoderConfig, HeadLoss

POOL = 20
"""Hard anchors of which one is taken."""


class Config(HeadLoss):
    kind: Literal["anchor_boxes"]
    classify: Literal["all", "mined"] = "all"
    positive: float = Field(0.5, gt=0, le=1)
    negative: float = Field(0.4, gt=0, le=1)
    """0.1 in Retina U-Net in 2D, and 0.01 in 3D."""
    alpha: float = Field(0.25, gt=0, lt=1)
    """Weight of anchors of an object in the focal loss; that of the others is 1 - alpha."""
    gamma: float = Field(2.0, ge=0)
    boxes: float = Field(1.0, gt=0)
    """Weight of the boxes beside that of the classes."""
    beta: float = Field(1 / 9, gt=0)
    """The offset up to which the loss of boxes is a square."""

    @model_validator(mode="after")
    def _leaves_a_gap(self) -> Config:
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} is above positive {self.positive}")
        return self


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "" if output == "anchors" else "compares boxes; use it with a decoder of kind: retina"


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of samples: one without an object teaches that there is none."""
    return float(len(labels))


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, A, K + 4 X], see the decoder. labels: [N, T, 1 + 2 X], class and box; rows below 0 are no objects."""
    total = 0 * logits.float().sum()
    if logits.is_meta:  # a plan has no values to compare
        return total
    for rows_A, objects_T in zip(logits.float(), labels, strict=True):
        total = total + _compare(config, rows_A, objects_T[objects_T[:, 0] >= 0], len(decoder.classes))
    return total


def _compare(config: Config, rows: torch.Tensor, objects: torch.Tensor, classes: int) -> torch.Tensor:
    sides = (rows.shape[1] - classes) // 2
    told, placed, anchors = rows.split([classes, sides, sides], 1)
    object_A = match(anchors, objects[:, 1:].to(anchors), config.positive, config.negative)
    is_one, counts = object_A >= 0, object_A > -2
    wanted = torch.zeros_like(told)
    wanted[is_one, objects[object_A[is_one], 0].long()] = 1
    number = is_one.sum().clamp(min=1)
    if config.classify == "all":
        cross = binary_cross_entropy_with_logits(told, wanted, reduction="none")
        right = torch.where(wanted > 0, told.sigmoid(), 1 - told.sigmoid())
        alpha = torch.where(wanted > 0, config.alpha, 1 - config.alpha)
        classified = (alpha * (1 - right) ** config.gamma * cross)[counts].sum() / number
    else:
        classified = _mine(told, wanted, is_one, object_A == -1)
    true = encode(objects[object_A[is_one], 1:].to(anchors), anchors[is_one])
    boxed = smooth_l1_loss(placed[is_one], true, beta=config.beta, reduction="sum") / (number * sides)
    return classified + config.boxes * boxed


def _mine(told: torch.Tensor, wanted: torch.Tensor, is_one: torch.Tensor, is_none: torch.Tensor) -> torch.Tensor:
    cross_A = binary_cross_entropy_with_logits(told, wanted, reduction="none").sum(1)
    number = max(1, int(is_one.sum()))
    hardest = cross_A[is_none].sort(descending=True).values[: POOL * number]
    taken = hardest[::POOL][:number] if len(hardest) >= POOL * number else hardest[:number]
    parts = [each.mean() for each in (cross_A[is_one], taken) if len(each)]
    return torch.stack(parts).sum() / 2 if parts else 0 * told.sum()


def match(anchors: torch.Tensor, boxes: torch.Tensor, positive: float, negative: float) -> torch.Tensor:
    """int64 [A]: the number of the object of each anchor, -1 for none, -2 for those that do not count."""
    if not len(boxes):
        return torch.full((len(anchors),), -1, device=anchors.device)
    iou_AT = find_iou(anchors, boxes)
    best_A, object_A = iou_AT.max(1)
    object_A = torch.where(best_A >= positive, object_A, torch.where(best_A < negative, -1, -2))
    best_T = iou_AT.max(0).values
    at, of = ((iou_AT == best_T) & (best_T > 0)).nonzero(as_tuple=True)
    object_A[at] = of
    return object_A


def find_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[A, 2 X] and [T, 2 X] -> [A, T]."""
    axes = a.shape[1] // 2
    low = torch.maximum(a[:, None, :axes], b[:, :axes])
    high = torch.minimum(a[:, None, axes:], b[:, axes:])
    shared = (high - low).clamp(min=0).prod(2)
    own, other = ((each[:, axes:] - each[:, :axes]).prod(1) for each in (a, b))
    return shared / (own[:, None] + other - shared)


def encode(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Offsets [..., 2 X] of boxes from anchors."""
    axes = anchors.shape[-1] // 2
    (own, sides), (true, wanted) = (
        ((each[..., axes:] + each[..., :axes]) / 2, each[..., axes:] - each[..., :axes]) for each in (anchors, boxes)
    )
    return torch.cat([(true - own) / sides / ANCHOR_STD[0], (wanted / sides).log() / ANCHOR_STD[1]], -1)
