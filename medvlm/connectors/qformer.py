"""BLIP-2's Q-Former: learned queries pass through a BERT that cross-attends to the patch tokens in every second layer
(arXiv 2301.12597, section 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.connectors._layers import Positions, check_heads
from medvlm.core.contracts import LoadedFile
from medvlm.core.weights import read_file, without_file


class Config(LoadedFile):
    """`weights`: a file of a BLIP-2 model. List its other parts in `allow_unexpected`; if the file lacks the
    projection, list that in `allow_missing`."""

    kind: Literal["qformer"]
    tokens: int = Field(32, gt=0)
    """Number of queries: the image tokens that reach the language model."""
    width: int = Field(768, gt=0)
    layers: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    every: int = Field(2, gt=0)
    """Cross-attend to the patches in every `every`-th layer, starting with the first."""
    dropout: float = Field(0.1, ge=0, lt=1)
    norm: bool = Field(False, exclude_if=lambda norm: not norm)
    """Normalises the patches first, as BLIP-2 does with the output of its vision tower (`ln_vision`): for a tower whose
    `layer` is before its last norm. In the file of `weights` it is vision_model.post_layernorm."""
    positions: bool = False
    """Adds a learned embedding of row, column and slice to the patches, as in `resampler`."""


def tokens(config: Config, grid: tuple[int, ...], width: int | None = None) -> int:
    """Raises ShapeError if the heads do not divide the Q-Former's own width."""
    check_heads(config.width, config.heads)
    return config.tokens


def build(config: Config, in_width: int, out_width: int, grid: tuple[int, ...]) -> nn.Module:
    check_heads(config.width, config.heads)
    with without_file(config):
        made = QFormer(config, in_width, out_width, grid)
    if config.weights:
        read_file(made, config, "connector")
    return made


class QFormer(nn.Module):
    """[N, T, in_width] -> [N, tokens, out_width]. Names are those of transformers' Blip2ForConditionalGeneration."""

    def __init__(self, config: Config, in_width: int, out_width: int, grid: tuple[int, ...]):
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig

        self.is_normalised = config.norm
        self.positions = Positions(grid, in_width) if config.positions else nn.Identity()
        if config.norm:  # named as in the file
            norm = nn.LayerNorm(in_width, eps=Blip2VisionConfig().layer_norm_eps)
            self.vision_model = nn.ModuleDict({"post_layernorm": norm})
        self.query_tokens = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.02)
        stock = Blip2QFormerConfig(
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            cross_attention_frequency=config.every,
            encoder_hidden_size=in_width,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
        )
        self.qformer = Blip2QFormerModel(stock)
        self.language_projection = nn.Linear(config.width, out_width)

    def forward(self, patches_NTE: torch.Tensor) -> torch.Tensor:
        if self.is_normalised:
            patches_NTE = self.vision_model["post_layernorm"](patches_NTE)
        queries = self.query_tokens.expand(patches_NTE.shape[0], -1, -1)
        read: torch.Tensor = self.qformer(
            query_embeds=queries, encoder_hidden_states=self.positions(patches_NTE)
        ).last_hidden_state
        return self.language_projection(read)
