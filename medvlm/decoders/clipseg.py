"""Marks what a text asks for: the decoder of CLIPSeg (arXiv 2112.10003, section 3), of transformers, on layers of a
ViT.

A few blocks read three layers of the tower, the deepest first, and the vector of the text scales and shifts the
channels before one of them (FiLM). Published CLIPSeg is the encoder of kind transformers with `layer: [-9, -6, -3]` and
`interpolate: true`, the text tower of the same model, and this decoder with `model`. On other towers, such as
BiomedCLIP's, it starts from random weights. A class token, if the tower gives one, is read with the patches.
Differing from the class of transformers, patches need not be a square. Axes: S objects, T tokens, W of the tower, C
channels.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import interpolate

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import TEXT_FORMS, DecoderFacts, PromptedConfig, PromptForm
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import ASKED, Prompts, TextWidth
from medvlm.decoders._published import read_parts

OUTPUT = "maps"
READS_TEXTS = True
PARTS = {"decoder.": "decoder.", "clip.text_projection.": "project."}
"""Names in a published CLIPSeg -> names here."""


class Config(PromptedConfig):
    kind: Literal["clipseg"]
    prompts: tuple[PromptForm, ...] = Field(("text",), min_length=1)
    layers: int = Field(3, gt=0)
    """Layers of the encoder that it reads: as many as `layer` of the encoder lists."""
    width: int = Field(64, gt=0)
    """Number of channels; 64 in the published rd64."""
    heads: int = Field(4, gt=0)
    mlp: int = Field(2048, gt=0)
    projection: int = Field(512, gt=0)
    """Width of the shared space of CLIP, into which the vector of the text is projected."""
    conditional: int = Field(0, ge=0)
    """The block before which the text scales and shifts the channels; 0 is the first, which reads the deepest layer."""
    refined: bool = False
    """Three steps from patches to pixels in place of one, as in the published rd64-refined."""
    model: str = ""
    """Hub id or folder of a published CLIPSeg, e.g. CIDAS/clipseg-rd64-refined, whose decoder is read."""

    @model_validator(mode="after")
    def _is_asked_in_words(self) -> Self:
        if others := set(self.prompts) - set(TEXT_FORMS):
            raise ValueError(f"prompts: {sorted(others)[0]} cannot be read; it reads {' and '.join(TEXT_FORMS)}")
        if self.conditional >= self.layers:
            raise ValueError(f"conditional: {self.conditional}: there are {self.layers} blocks, and 0 is the first")
        return self


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """Raises ShapeError for volumes, layers that cannot be told apart, and heads that do not divide the width."""
    if (grid is not None and len(grid) != 2) or (input_shape is not None and len(input_shape) != 3):
        raise ShapeError("clipseg marks images, and its encoder takes volumes; use an encoder of images")
    if width is not None and width % config.layers:
        raise ShapeError(
            f"clipseg reads {config.layers} layers, and the encoder gives {width} channels; list as many in `layer` of"
            " the encoder, e.g. [-9, -6, -3]"
        )
    if config.width % config.heads:
        raise ShapeError(f"{config.heads} heads do not divide the width, {config.width}; change one of them")
    if grid is not None and input_shape is not None:
        sides = {side / cells for side, cells in zip(input_shape[1:], grid, strict=True)}
        if len(sides) > 1 or not float(patch := next(iter(sides))).is_integer() or (config.refined and patch % 4):
            raise ShapeError(
                f"clipseg makes pixels of square patches{', of a multiple of 4 pixels' if config.refined else ''}, and"
                f" {tuple(input_shape[1:])} pixels are {grid} patches; use another encoder or preprocess.size"
            )
    return DecoderFacts((1, *(input_shape or ())[1:]))


def scale_down(config: Config) -> Config:
    return config.model_copy(update={"width": min(config.width, 16), "mlp": min(config.mlp, 32), "model": ""})


def standalone(config: Config) -> Config:
    return config.model_copy(update={"model": ""})


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], text_width: TextWidth
) -> nn.Module:
    facts(config, width, grid, input_shape)
    made = ClipSeg(config, width // config.layers, tuple(grid), tuple(input_shape[1:]), text_width.pooled)
    if config.model:
        read_parts(made, config.model, PARTS, "a CLIPSeg of the width, layers, heads and mlp of this decoder")
    return made


class ClipSeg(nn.Module):
    """Features and texts -> {"": logits of a mask for each [S, 1, *size]}."""

    TAKES_PROMPTS = True

    def __init__(self, config: Config, width: int, grid: tuple[int, ...], size: tuple[int, ...], text: int):
        from transformers import CLIPSegConfig
        from transformers.models.clipseg.modeling_clipseg import CLIPSegDecoder

        super().__init__()
        self.grid, self.size, self.width = grid, size, width
        self.reads_texts = config.list_texts()
        settings: Any = CLIPSegConfig(
            vision_config={"hidden_size": width, "patch_size": size[0] // grid[0], "num_attention_heads": 1},
            projection_dim=config.projection,
            reduce_dim=config.width,
            extract_layers=list(range(config.layers)),
            decoder_num_attention_heads=config.heads,
            decoder_intermediate_size=config.mlp,
            conditional_layer=config.conditional,
            use_complex_transposed_convolution=config.refined,
        )
        settings.vision_config._attn_implementation = "sdpa"
        settings._attn_implementation = "sdpa"
        self.decoder: Any = CLIPSegDecoder(settings)
        self.project = nn.Linear(text, config.projection, bias=False)

    def forward(self, features: Features, prompts: Prompts) -> dict[str, torch.Tensor]:
        states = features.patches
        if features.heads is not None:
            states = torch.cat([features.heads, states], 1)
        text_SE = self.project(prompts.read[ASKED].pooled_SE)
        found_STC: torch.Tensor | None = None
        layers = reversed(states.split(self.width, -1))
        for number, (state, reduce) in enumerate(zip(layers, self.decoder.reduces, strict=True)):
            reduced = reduce(state)
            found_STC = reduced if found_STC is None else reduced + found_STC
            if number == self.decoder.conditional_layer:
                scale, shift = self.decoder.film_mul(text_SE), self.decoder.film_add(text_SE)
                found_STC = scale[:, None] * found_STC + shift[:, None]
            found_STC = self.decoder.layers[number](found_STC, attention_mask=None)
        assert found_STC is not None
        patches_STC = found_STC[:, found_STC.shape[1] - features.patches.shape[1] :]
        logits = self.decoder.transposed_convolution(patches_STC.transpose(1, 2).unflatten(2, self.grid))
        if tuple(logits.shape[2:]) != self.size:
            logits = interpolate(logits, size=self.size, mode="bilinear", align_corners=False)
        return {"": logits + 0 * sum(each.pooled_SE.sum() for each in prompts.read.values())}
