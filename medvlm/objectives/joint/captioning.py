"""A decoder writes the text of an image from its patches: contrast and captioning together (CoCa, arXiv 2205.01917,
equation 3; for medical volumes COLIPRI, arXiv 2510.15042).

Axes: N images, R patches, T tokens, P width, V vocabulary.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import cross_entropy

from medvlm.core.contracts import Outputs
from medvlm.core.joint import Item, Seen, Towers
from medvlm.objectives.joint._base import JointLoss, Objective, Ranks, Tensors, widen


class Config(JointLoss):
    kind: Literal["captioning"]
    width: int = Field(256, gt=0)
    layers: int = Field(3, gt=0)
    heads: int = Field(4, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    most: int = Field(256, gt=1)
    """Tokens of a text that are written, the first ones."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be divided among {self.heads} heads")
        return self

    def scale_down(self) -> Self:
        return self.model_copy(update={"width": 4 * self.heads, "layers": 1})


def build(config: Config, towers: Towers) -> Captioning:
    return Captioning(config, towers)


class Captioning(Objective):
    """A transformer decoder with its own word embeddings reads the patches by cross-attention. Deviation from CoCa: no
    layers are shared with the text tower, which may see a text whole, and the patches are not pooled to queries
    first."""

    def __init__(self, config: Config, towers: Towers):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(towers.vocabulary, config.width)
        self.place = nn.Embedding(config.most, config.width)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.place.weight, std=0.02)
        self.patches = nn.Linear(towers.patch_width, config.width)
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.layers, nn.LayerNorm(config.width))
        self.head = nn.Linear(config.width, towers.vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def read(self, item: Item) -> dict[str, torch.Tensor]:
        """ids: of the written tokens, int64 [T]."""
        return {"ids": torch.tensor(item.ids[: self.config.most])}

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        ids_NT = read["ids"]
        before_NT = ids_NT[:, :-1].clamp(min=0)  # padding stands behind the text, where no token of it looks
        length = before_NT.shape[1]
        place_T = torch.arange(length, device=ids_NT.device)
        words_NTP = self.embed(before_NT) + self.place(place_T)
        is_later_TT = place_T[None] > place_T[:, None]
        found_NTP = self.decoder(words_NTP, self.patches(seen.patches_NRE), tgt_mask=is_later_TT)
        logits_NTV = self.head(found_NTP)
        # The loss of a text is a row by itself, so that a batch can be split without keeping the logits.
        losses_NT = cross_entropy(widen(logits_NTV.transpose(1, 2)), ids_NT[:, 1:], reduction="none", ignore_index=-1)
        return {"losses": losses_NT.sum(1)}

    def weigh(self, read: Tensors, count: int) -> dict[str, float]:
        return {"": float((read["ids"][:, 1:] >= 0).sum())}

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"": outputs["losses"].sum()}
