"""Draws what a language model asks for: its hidden state at a token of an answer becomes the prompt of a mask decoder
over the features of the image (LISA, arXiv 2308.00692, section 3), in 2D and 3D.

As in LISA, two layers with a ReLU project the hidden state. The two-way transformer and the product of a token with
the pixels are SAM's (arXiv 2304.02643, appendix A), of which transformers has the transformer; it reads tokens of any
number of axes. Differing from SAM, the tokens are interpolated to the pixels of the mask, and a convolution of the
image itself is added, as in the first skip of UNETR (arXiv 2103.10504, section 3.1): patches of 8 pixels tell no
outline.

A second token says whether there is anything to mark, as in generalised referring segmentation (GRES, arXiv
2306.00968), so that a structure that is not there gives an empty mask. LISA's code reads the hidden state that predicts
the token; here it is that of the token itself, as its paper says.
Axes: S tokens that draw, W width of the language model, T patches, C width of the decoder, F of its pixels.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import gelu, interpolate

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderFacts, DrawingConfig
from medvlm.core.errors import ShapeError

OUTPUT = "maps"
READS_TOKENS = True


class Config(DrawingConfig):
    kind: Literal["seg_token"]
    width: int = Field(64, gt=0, multiple_of=16)
    layers: int = Field(2, gt=0)
    """Of the two-way transformer."""
    heads: int = Field(4, gt=0)
    pixel_width: int = Field(16, gt=0, multiple_of=4)
    """Number of channels of the pixels of a mask."""
    stride: int = Field(1, gt=0)
    """Pixels of the input per pixel of the mask along each axis. Masks are interpolated to the input. For volumes, 2
    costs an eighth."""


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """Raises ShapeError for a grid with another number of axes than the input, and for heads that do not divide the
    width."""
    if grid is not None and input_shape is not None and len(grid) != len(input_shape) - 1:
        raise ShapeError(
            f"a grid of {len(grid)} axes cannot make a mask of {len(input_shape) - 1}; use an encoder whose patches lie"
            " on the axes of its input"
        )
    if config.width // 2 % config.heads:
        raise ShapeError(f"{config.heads} heads do not divide half the width, {config.width // 2}; change one of them")
    return DecoderFacts((1, *(input_shape or ())[1:]))


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], token_width: int
) -> nn.Module:
    facts(config, width, grid, input_shape)
    return SegToken(config, width, grid, input_shape, token_width)


class SegToken(nn.Module):
    """Features and hidden states [S, W] -> logits of a mask for each [S, 1, *size], and logits of whether there is
    anything to mark [S, 1]."""

    def __init__(
        self, config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], token_width: int
    ):
        from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
        from transformers.models.sam.modeling_sam import SamFeedForward, SamTwoWayTransformer

        super().__init__()
        C, F, stride = config.width, config.pixel_width, config.stride
        conv: Any = nn.Conv2d if len(grid) == 2 else nn.Conv3d
        self.grid, self.size = tuple(grid), tuple(input_shape[1:])
        self.mode = "bilinear" if len(grid) == 2 else "trilinear"
        self.prompt = nn.Sequential(nn.Linear(token_width, token_width), nn.ReLU(), nn.Linear(token_width, C))
        self.reduce = nn.Linear(width, C)
        self.position = nn.Parameter(torch.empty(1, C, *grid).normal_(std=0.02))
        self.tokens = nn.Parameter(torch.empty(2, C).normal_(std=0.02))
        settings = SamMaskDecoderConfig(
            hidden_size=C, mlp_dim=2 * C, num_hidden_layers=config.layers, num_attention_heads=config.heads
        )
        settings._attn_implementation = "sdpa"
        self.transformer = SamTwoWayTransformer(settings)
        self.present = SamFeedForward(C, C, 1, 3)
        self.weigh = SamFeedForward(C, C, F, 3)
        self.from_patches = conv(C, F, kernel_size=1)
        self.from_pixels = nn.Sequential(
            conv(input_shape[0], F, kernel_size=3, stride=stride, padding=1),
            nn.GroupNorm(4, F),
            nn.GELU(),
            conv(F, F, kernel_size=3, padding=1),
        )
        self.join = nn.Sequential(nn.GroupNorm(4, F), nn.GELU(), conv(F, F, kernel_size=3, padding=1))

    def forward(self, features: Features, hidden_SW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert features.pixels is not None
        count = len(hidden_SW)
        patches_SC = self.reduce(features.patches).transpose(1, 2).unflatten(2, self.grid)
        own = self.tokens.expand(count, -1, -1)
        prompts_S1C = torch.cat([own, self.prompt(hidden_SW)[:, None]], 1)[:, None]
        position = self.position.expand(count, *self.position.shape[1:])
        read_S1C, seen_S1TC = self.transformer(prompts_S1C, patches_SC, position, attention_similarity=None)
        pixels_SF = self.from_pixels(features.pixels)
        coarse_SF = self.from_patches(seen_S1TC[:, 0].transpose(1, 2).unflatten(2, self.grid))
        fine_SF = interpolate(coarse_SF, size=pixels_SF.shape[2:], mode=self.mode)
        joined_SF = gelu(self.join(fine_SF + pixels_SF))
        masks_S1 = torch.einsum("sf,sf...->s...", self.weigh(read_S1C[:, 0, 1]), joined_SF)[:, None]
        if masks_S1.shape[2:] != self.size:
            masks_S1 = interpolate(masks_S1, size=self.size, mode=self.mode)
        return masks_S1, self.present(read_S1C[:, 0, 0])
