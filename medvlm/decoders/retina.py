"""Finds objects as boxes: RetinaNet (Lin et al. 2017, arXiv 1708.02002) on the levels of an encoder, in 2D and 3D.

The pyramid and both heads are MONAI's. Each place of each level has anchors, boxes of some sizes and ratios; of each
the heads say whether it is of a class, and how far the object's box is from it. The output of an anchor is [K class
logits, 2 x axes offsets, 2 x axes numbers of the anchor itself]: lower corner, then upper corner, axes in the order of
the pixels. Offsets are of the centre in sides of the anchor, and the logarithm of the ratio of sides, divided by
ANCHOR_STD (Girshick et al. 2014, appendix C, as in Faster R-CNN).
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import ANCHOR_STD, DecoderConfig, DecoderFacts
from medvlm.core.errors import ShapeError
from medvlm.decoders._found import FOUND, choose_sure, list_found, make_no_objects

OUTPUT = "anchors"
ANSWERS = "detections"
LARGEST = math.log(1000 / 16)
"""Of the logarithm of the ratio of sides, as in torchvision: larger ones are cut, or they overflow."""
Positive = tuple[float, ...]


class Config(DecoderConfig):
    kind: Literal["retina"]
    ALWAYS_EXCLUSIVE = False
    exclusive: bool = False
    width: int = Field(64, gt=0, multiple_of=8)
    """Channels of the pyramid and the heads."""
    size: float = Field(4.0, gt=0)
    """Side of the smallest anchor of a level, in pixels between its places: 4 as in RetinaNet, 2 in Retina U-Net."""
    scales: Positive = Field((1.0, 2 ** (1 / 3), 2 ** (2 / 3)), min_length=1)
    ratios: Positive = Field((0.5, 1.0, 2.0), min_length=1)
    """Height to width; volumes keep their depth."""
    least: float = Field(0.05, gt=0, lt=1)
    """Boxes with a lower score are not given."""
    overlap: float = Field(0.5, gt=0, le=1)
    """Of two boxes of a class that overlap by more than this IoU, the surer one is kept (non-maximum suppression)."""


def scale_down(config: Config) -> Config:
    return config.model_copy(update={"width": 8})


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """The number of anchors is known once the levels are: 0 stands for it."""
    axes = len(input_shape) - 1 if input_shape is not None else 2
    return DecoderFacts((0, len(config.classes) + 4 * axes))


def reads_levels(config: Config) -> bool:
    return True


def make_blank_label(config: Config) -> Any:
    return make_no_objects()


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], levels: tuple[Level, ...]
) -> nn.Module:
    """Raises ShapeError for an encoder without `levels`, or with levels of another number of axes than its input."""
    if not levels or any(len(level.grid) != len(input_shape) - 1 for level in levels):
        raise ShapeError(
            "retina finds boxes on several layers of an encoder; list them in its `levels`, the finest first, e.g."
            " [-3, -2, -1]"
        )
    return Retina(config, levels, tuple(input_shape[1:]))


class Retina(nn.Module):
    """Features -> [N, anchors, K + 4 x axes]."""

    def __init__(self, config: Config, levels: tuple[Level, ...], size: tuple[int, ...]):
        from monai.apps.detection.networks.retinanet_network import (
            RetinaNetClassificationHead,
            RetinaNetRegressionHead,
        )
        from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork

        super().__init__()
        axes, count = len(size), len(config.scales) * len(config.ratios)
        self.classes, self.size, self.config = len(config.classes), size, config
        self.pyramid = FeaturePyramidNetwork(axes, [level.width for level in levels], config.width)
        self.tell = RetinaNetClassificationHead(config.width, count, self.classes, axes)
        self.place = RetinaNetRegressionHead(config.width, count, axes)

    def forward(self, features: Features) -> torch.Tensor:
        maps = self.pyramid({str(number): level for number, level in enumerate(features.levels)}).values()
        rows = []
        for level in maps:
            # Not through the heads' forward, which looks for NaN: a plan has no values.
            told = _by_anchor(self.tell.cls_logits(self.tell.conv(level)), self.classes)
            placed = _by_anchor(self.place.bbox_reg(self.place.conv(level)), 2 * len(self.size))
            # Pixels are never in 16 bits: from 256 on, bfloat16 has only every second one.
            pixels = torch.promote_types(told.dtype, torch.float32)
            anchors = make_anchors(self.config, tuple(level.shape[2:]), self.size).to(told.device, pixels)
            rows.append(torch.cat([told, placed, anchors.expand(len(told), -1, -1)], 2))
        return torch.cat(rows, 1)


def _by_anchor(maps: torch.Tensor, numbers: int) -> torch.Tensor:
    """[N, anchors x numbers, *grid] -> [N, places x anchors, numbers]."""
    return maps.unflatten(1, (-1, numbers)).movedim((1, 2), (-2, -1)).flatten(1, -2)


def make_anchors(config: Config, grid: tuple[int, ...], size: tuple[int, ...]) -> torch.Tensor:
    """[places x anchors, 2 x axes] in pixels of the input, centred on each place."""
    strides = [side / places for side, places in zip(size, grid, strict=True)]
    sides = []
    for scale, ratio in itertools.product(config.scales, config.ratios):
        tall = [*([1.0] * (len(size) - 2)), math.sqrt(ratio), 1 / math.sqrt(ratio)]
        sides.append([config.size * scale * stride * share for stride, share in zip(strides, tall, strict=True)])
    half = torch.tensor(sides) / 2
    axes = [(torch.arange(places) + 0.5) * stride for places, stride in zip(grid, strides, strict=True)]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)[:, None]
    return torch.cat([centres - half, centres + half], 2).flatten(0, 1)


def to_boxes(offsets: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """[..., 2 x axes] each. The inverse of encoding in the loss."""
    axes = anchors.shape[-1] // 2
    sides = anchors[..., axes:] - anchors[..., :axes]
    centres = anchors[..., :axes] + sides / 2 + offsets[..., :axes] * ANCHOR_STD[0] * sides
    half = sides * (offsets[..., axes:] * ANCHOR_STD[1]).clamp(max=LARGEST).exp() / 2
    return torch.cat([centres - half, centres + half], -1)


def to_answers(config: Config, logits: torch.Tensor) -> torch.Tensor:
    """[N, FOUND, 2 + 2 x axes], see list_found()."""
    classes = len(config.classes)
    sides = (logits.shape[2] - classes) // 2
    answers = []
    for rows in logits:
        scores = rows[:, :classes].sigmoid()
        at, of = choose_sure(scores, config.least)
        boxes = to_boxes(rows[at, classes : classes + sides], rows[at, classes + sides :])
        answers.append(list_found(boxes, of, scores[at, of], config.overlap))
    return torch.stack(answers) if answers else logits.new_zeros(0, FOUND, 2 + sides)
