"""Marks the object that a box, points, a mask or the name of its class shows: the prompt encoder and the mask decoder
of SAM (arXiv 2304.02643, appendix A), of transformers, on its own image encoder or on any other with a grid of two
axes.

`version: 2` is that of SAM 2 for images (arXiv 2408.00714, appendix D), which adds two finer levels of the encoder to
the growing mask; SAM 3 (arXiv 2511.16719) has the same for boxes, points and masks. Their image encoders are of kind
sam_levels.

The image encoder of a published SAM or MedSAM (arXiv 2304.12306) is an encoder of kind transformers with `layer:
normed`; its tokens are as wide as the prompts, and are read as they are. Those of others are projected, and normed.
Which parts are trained is said by `trains`: [decoders.NAME.mask_decoder] as MedSAM does, [lora] with `lora: {targets:
[encoders]}`, and so on. The frequencies that encode places are fixed, as in SAM.

With `fill_box`, a box is also read as the mask of its pixels.
Axes: S prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.contracts import Level
from medvlm.core.mask_prompts import Prompts
from medvlm.decoders._sam import IOU, Sam, SamConfig, facts, find_iou, standalone  # noqa: F401
from medvlm.decoders._sam2 import Sam2
from medvlm.decoders._sam_weights import read_published

OUTPUT = "maps"


class Config(SamConfig):
    kind: Literal["sam"]
    version: Literal[1, 2] = Field(1, exclude_if=lambda version: version == 1)
    """2 for SAM 2 and SAM 3. It reads three `levels` of the encoder, each twice as fine as the next."""
    iou: float = Field(0.0, ge=0)
    """Factor of the squared error of the predicted IoU, against that of the mask with its label. 0 leaves it out."""


def reads_levels(config: Config) -> bool:
    return config.version == 2


def build(
    config: Config,
    width: int,
    grid: tuple[int, ...],
    input_shape: tuple[int, ...],
    levels: tuple[Level, ...] = (),
) -> nn.Module:
    """Raises ShapeError for what facts() refuses, and for levels that are not each twice as fine as the next."""
    facts(config, width, grid, input_shape)
    size = tuple(input_shape[1:])
    made = Sam(config, width, tuple(grid), size) if config.version == 1 else Sam2(config, levels, size)
    if config.model or config.weights:
        read_published(made, config.model, config.weights)
    return made


def list_terms(config: Config) -> tuple[str, ...]:
    return (IOU,) if config.iou else ()


def weigh_term(config: Config, name: str, labels_S1: torch.Tensor, prompts: Prompts) -> float:
    return float(len(labels_S1))


def add_up_term(
    config: Config, name: str, outputs: Mapping[str, torch.Tensor], labels_S1: torch.Tensor, prompts: Prompts
) -> torch.Tensor:
    """The error of the predicted IoU, as in SAM: that of the mask is no part of the graph."""
    return config.iou * (outputs[IOU][:, 0].float() - find_iou(outputs[""], labels_S1)).square().sum()
