"""Masked autoencoder: a light decoder paints the patches that the encoder did not see (arXiv 2111.06377).

The encoder sees a quarter of the patches. The decoder gets its tokens and a mask token in every other place, with fixed
positions, and predicts the pixels of each patch, standardised within the patch (section 3). The loss is the squared
error, the mean over the pixels of a patch and over the masked patches. In 2D and 3D.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from medvlm.objectives.ssl._masked import MaskedLoss, Painter


class Config(MaskedLoss):
    kind: Literal["mae"]


def build(config: Config, encoder: Any) -> Mae:
    """Raises ShapeError for an encoder whose patches cannot be left out."""
    return Mae(config, encoder)


class Mae(Painter):
    def __init__(self, config: Config, encoder: Any):
        super().__init__(config, encoder)
        self.embed = nn.Linear(encoder.width, config.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                4 * config.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )

    def decode(self, seen_NKE: torch.Tensor, kept_NK: torch.Tensor) -> torch.Tensor:
        tokens_NTD = self.fill(self.embed(seen_NKE.to(self.embed.weight.dtype)), kept_NK)
        for block in self.blocks:
            tokens_NTD = block(tokens_NTD)
        return tokens_NTD
