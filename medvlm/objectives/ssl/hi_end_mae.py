"""Hi-End-MAE: the decoder reads several depths of the encoder, the deepest first (arXiv 2502.08347).

As in a masked autoencoder, the decoder begins with the encoder's last tokens and a mask token in every other place.
After some blocks of self-attention, each further block also attends to the tokens of visible patches of a shallower
depth, so that these depths learn too. Patches are standardised as by a layer norm. The defaults are those of the paper
for an encoder of 12 blocks.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import nn

from medvlm.objectives.ssl._masked import MaskedLoss, Painter


class Config(MaskedLoss):
    kind: Literal["hi_end_mae"]
    width: int = Field(528, gt=0)
    """Width of the decoder."""
    layers: int = Field(2, gt=0)
    """Number of blocks of self-attention."""
    depths: tuple[Annotated[int, Field(lt=-1)], ...] = Field((-3, -6, -9), min_length=1)
    """Layers of the encoder, counted from its end, that one further block each attends to, in this order."""

    def scale_down(self) -> Self:
        return super().scale_down().model_copy(update={"depths": (-2,)})


def build(config: Config, encoder: Any) -> HiEndMae:
    """Raises ShapeError for an encoder whose patches cannot be left out."""
    return HiEndMae(config, encoder)


class HiEndMae(Painter):
    is_unbiased = False

    def __init__(self, config: Config, encoder: Any):
        super().__init__(config, encoder)
        self.encoder_layers = (-1, *config.depths)
        self.embeds = nn.ModuleList(nn.Linear(encoder.width, config.width) for _ in self.encoder_layers)
        sizes: dict[str, Any] = {"nhead": config.heads, "dim_feedforward": 4 * config.width, "dropout": 0.0}
        how: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(config.width, **sizes, **how) for _ in range(config.layers)
        )
        self.cross_blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(config.width, **sizes, **how) for _ in config.depths
        )

    def decode(self, seen_NKE: torch.Tensor, kept_NK: torch.Tensor) -> torch.Tensor:
        """seen_NKE: of all depths, one after the other along the channels."""
        depths = seen_NKE.chunk(len(self.encoder_layers), -1)
        last, *others = (
            embed(tokens.to(embed.weight.dtype)) for embed, tokens in zip(self.embeds, depths, strict=True)
        )
        tokens_NTD = self.fill(last, kept_NK)
        for block in self.blocks:
            tokens_NTD = block(tokens_NTD)
        for block, tokens_NKD in zip(self.cross_blocks, others, strict=True):
            tokens_NTD = block(tokens_NTD, tokens_NKD)
        return tokens_NTD
