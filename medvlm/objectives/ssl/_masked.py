"""What methods share that paint masked patches: the mask, the decoder's input, and the squared error.

Axes: N images, T patches, K patches that are seen, D width of the decoder, P pixels of a patch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.contracts import Masking, Outputs
from medvlm.objectives.ssl._base import (
    Moment,
    Objective,
    SslLoss,
    Tensors,
    encode,
    find_patch,
    make_positions,
    require_masking,
    split_patches,
    widen,
)
from medvlm.objectives.ssl._views import Cropped, make_view

if TYPE_CHECKING:
    import numpy as np

LOSS = "loss"


class MaskedLoss(Cropped, SslLoss):
    """Base of the settings of these methods."""

    ratio: float = Field(0.75, gt=0, lt=1)
    """Share of the patches that are masked."""
    width: int = Field(512, gt=0)
    """Width of the decoder."""
    layers: int = Field(8, gt=0)
    """Number of blocks of the decoder."""
    heads: int = Field(16, gt=0)
    """Number of attention heads of the decoder."""
    standardise: bool = True
    """Predicts each patch relative to its own mean and standard deviation."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the decoder's width of {self.width}; change one")
        return self

    def scale_down(self) -> Self:
        return self.model_copy(update={"width": 48, "layers": min(self.layers, 2), "heads": 4})


class Painter(Objective):
    """Subclasses have `decode`."""

    encoder_layers: tuple[int, ...] = ()
    """Layers of the encoder that the decoder reads, see Masking."""
    is_unbiased = True
    """Whether the variance that patches are standardised by is unbiased, as in the reference code of MAE."""

    def __init__(self, config: Any, encoder: Any):
        super().__init__()
        require_masking(encoder, config.kind)
        self.config, self.size, self.patch = config, tuple(encoder.input_shape[1:]), find_patch(encoder)
        self.total = math.prod(encoder.grid)
        self.kept = max(1, self.total - round(self.total * config.ratio))
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.register_buffer("positions_TD", make_positions(encoder.grid, config.width), persistent=False)
        self.norm = nn.LayerNorm(config.width)
        self.paint = nn.Linear(config.width, encoder.input_shape[0] * math.prod(self.patch))

    def decode(self, seen_NKE: torch.Tensor, kept_NK: torch.Tensor) -> torch.Tensor:
        """The decoder's last tokens [N, T, D]. seen_NKE: what the encoder gives of the patches at `kept_NK`."""
        raise NotImplementedError

    def draw(self, pixels: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        order = torch.from_numpy(rng.permutation(self.total))
        view = make_view(pixels, self.size, self.config.crop, self.config.changes, rng)
        return {"pixels": view, "kept_K": order[: self.kept].sort().values}

    def forward(self, encoder: nn.Module, views: Tensors, own: Outputs | None = None) -> Outputs:
        """`painted_NTP`: what the decoder makes of every patch, and `pooled_NE` of the patches that were seen."""
        kept_NK = views["kept_K"].to(views["pixels"].device)
        seen = encode(encoder, views["pixels"], Masking(kept_NK=kept_NK, layers=self.encoder_layers))
        return {"painted_NTP": self.paint(self.norm(self.decode(seen.patches, kept_NK))), "pooled_NE": seen.pooled}

    def fill(self, tokens_NKD: torch.Tensor, kept_NK: torch.Tensor) -> torch.Tensor:
        """The tokens in their places and the mask token in all others, with positions [N, T, D]."""
        every_NTD = self.mask_token.to(tokens_NKD.dtype).expand(len(tokens_NKD), self.total, -1)
        every_NTD = every_NTD.scatter(1, kept_NK[..., None].expand_as(tokens_NKD), tokens_NKD)
        return every_NTD + self.positions_TD.to(tokens_NKD.dtype)  # type: ignore[operator]

    def weigh(self, views: Tensors) -> dict[str, float]:
        return {LOSS: float(len(views["kept_K"]) * (self.total - self.kept))}

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        target_NTP = split_patches(widen(views["pixels"]), self.patch)
        if self.config.standardise:
            variance, mean = torch.var_mean(target_NTP, -1, correction=int(self.is_unbiased), keepdim=True)
            target_NTP = (target_NTP - mean) / (variance + 1e-6).sqrt()
        error_NT = (widen(own["painted_NTP"]) - target_NTP).square().mean(-1)
        masked_NT = torch.ones_like(error_NT).scatter(1, views["kept_K"].to(error_NT.device), 0.0)
        return {LOSS: (error_NT * masked_NT).sum()}
