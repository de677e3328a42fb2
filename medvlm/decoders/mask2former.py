"""Predicts a set of masks, each of a class: Mask2Former (Cheng et al. 2022, arXiv 2112.01527) on the levels of any
encoder of images.

Pixel decoder, transformer and initial weights are those of transformers: deformable attention over the three coarsest
levels, a sum with the finer ones, and queries that attend to the places within the mask that they have drawn so far
(section 3.2). With the levels of strides 4, 8, 16 and 32 it is the published one. The pixels of a class are one
segment, and where classes exclude each other, so are those of the background; a pixel has the probability of a class
that the queries give it, each the product of its class and its mask (MaskFormer, arXiv 2107.06278, section 3.4).
In training, the masks before the first layer and those of all layers but the last are side outputs.
Axes: Q queries, C classes with the background, W width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import interpolate

from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.core.errors import ShapeError
from medvlm.core.mask_sets import pack, unpack
from medvlm.decoders._maps import count_maps
from medvlm.decoders._published import read_parts

OUTPUT = "mask_set"
ANSWERS = "maps"
ATTENDED = 3
"""Levels that the transformer reads, the coarsest ones."""
AT_ONCE = 16
"""Queries whose masks are brought to the size of the input together."""
PARTS = {"model.pixel_level_module.decoder.": "pixels.", "model.transformer_module.": "queries."}
"""Published names -> ours."""


class Config(DecoderConfig):
    kind: Literal["mask2former"]
    model: str = ""
    """Hub id or folder of a published Mask2Former, e.g. facebook/mask2former-swin-tiny-coco-panoptic, of which all but
    the encoder and the names of its classes are read."""
    queries: int = Field(100, gt=0)
    """Masks of an image, at most."""
    width: int = Field(256, gt=0, multiple_of=32)
    heads: int = Field(8, gt=0)
    layers: int = Field(9, gt=0)
    """Of the transformer; the stage has as many weights in `sides`."""
    mlp: int = Field(2048, gt=0)
    pixel_layers: int = Field(6, gt=0)
    """Of the pixel decoder."""
    pixel_mlp: int = Field(1024, gt=0)
    costs: tuple[float, float, float] = (2.0, 5.0, 5.0)
    """Of class, cross-entropy and Dice, where queries are matched with segments."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}; change one of them")
        if min(self.costs) < 0 or not any(self.costs):
            raise ValueError("costs: give three numbers of at least 0, one of them above it, e.g. [2, 5, 5]")
        if self.queries < count_maps(self):
            raise ValueError(
                f"queries: {self.queries} masks are fewer than the {count_maps(self)} segments that an image may have"
                f" (one of each class{', and the background' if self.exclusive else ''}); give at least as many"
            )
        return self


def scale_down(config: Config) -> Config:
    """Layers stay, as the stage has a weight for each."""
    return config.model_copy(
        update={"width": 32, "heads": 2, "queries": 12, "mlp": 32, "pixel_layers": 1, "pixel_mlp": 32}
    )


def standalone(config: Config) -> Config:
    return config.model_copy(update={"model": ""})


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """The size of its maps is known once the levels are: 0 stands for it. Raises ShapeError for volumes."""
    if (grid is not None and len(grid) != 2) or (input_shape is not None and len(input_shape) != 3):
        raise ShapeError("mask2former draws on images, and its encoder takes volumes; use an encoder of images")
    return DecoderFacts((config.queries, 0))


def reads_levels(config: Config) -> bool:
    return True


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], levels: tuple[Level, ...]
) -> nn.Module:
    """Raises ShapeError for volumes, for fewer than three levels, and for levels that do not get coarser."""
    facts(config, width, grid, input_shape)
    grids = [tuple(level.grid) for level in levels]
    grows = any(a <= b for pair in pairwise(grids) for a, b in zip(*pair, strict=True))
    if len(levels) < ATTENDED or grows:
        raise ShapeError(
            f"mask2former reads at least three levels, each coarser than the one before, and its encoder has {grids};"
            " list them in its `levels`, e.g. [-4, -3, -2, -1]"
        )
    made = Mask2Former(config, levels, tuple(input_shape[1:]))
    if config.model:
        read_parts(made, config.model, PARTS, "a Mask2Former of the encoder's levels, and of this width and depth")
    return made


class Mask2Former(nn.Module):
    """Features -> the packed set of masks of an image, see core/mask_sets.py; in training [the same, of the queries
    before the first layer, of the layers before the last ...]."""

    def __init__(self, config: Config, levels: tuple[Level, ...], size: tuple[int, ...]):
        from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig
        from transformers.models.mask2former.modeling_mask2former import (
            Mask2FormerPixelDecoder,
            Mask2FormerPreTrainedModel,
            Mask2FormerTransformerModule,
        )

        super().__init__()
        self.size = size
        W = config.width
        settings: Any = Mask2FormerConfig(
            feature_size=W, mask_feature_size=W, hidden_dim=W, num_attention_heads=config.heads,
            encoder_layers=config.pixel_layers, encoder_feedforward_dim=config.pixel_mlp,
            decoder_layers=config.layers + 1, dim_feedforward=config.mlp, num_queries=config.queries,
            feature_strides=[4 * 2**number for number in range(len(levels))],
        )  # fmt: skip
        self.pixels: Any = Mask2FormerPixelDecoder(settings, [level.width for level in levels])
        # The library's constructor of tensors knows no meta device.
        self.pixels.level_embed = nn.Parameter(torch.empty(ATTENDED, W))
        self.queries: Any = Mask2FormerTransformerModule(W, settings)
        initial = Mask2FormerPreTrainedModel(settings)
        for module in (*self.pixels.modules(), *self.queries.modules()):
            initial._init_weights(module)
        self.classify = nn.Linear(W, count_maps(config) + 1)
        self.sides: tuple[tuple[int, ...], ...] = ((),) * config.layers

    def forward(self, features: Features) -> Any:
        seen = self.pixels(list(features.levels))
        found = self.queries(list(seen.multi_scale_features), seen.mask_features)
        layers = zip(found.intermediate_hidden_states, found.masks_queries_logits, strict=True)
        packed = [pack(self.classify(told_QNW.transpose(0, 1)), masks_NQ, self.size) for told_QNW, masks_NQ in layers]
        return [packed[-1], *packed[:-1]] if self.training else packed[-1]


def to_answers(config: Config, logits: torch.Tensor) -> torch.Tensor:
    """Probabilities [N, C, *size]. Those of exclusive classes add up to 1; of others, what several queries find in a
    pixel adds up to at most 1."""
    told, masks, size = unpack(logits, count_maps(config)) if len(logits) else (logits, logits, (0, 0))
    answers = []
    for told_QC, masks_Q in zip(told, masks, strict=True):
        sure_QC = told_QC.softmax(1)[:, :-1]
        total = logits.new_zeros(sure_QC.shape[1], *size)
        for own_QC, own_Q in zip(sure_QC.split(AT_ONCE), masks_Q.split(AT_ONCE), strict=True):
            large_Q = interpolate(own_Q[None], size=size, mode="bilinear", align_corners=False)[0]
            total += torch.einsum("qc,qhw->chw", own_QC, large_Q.sigmoid())
        answers.append(total / total.sum(0).clamp(min=1e-12) if config.exclusive else total.clamp(max=1))
    return torch.stack(answers) if answers else logits.new_zeros(0, count_maps(config), *size)
