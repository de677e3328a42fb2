"""A further loss of image-text pairs: the image tells how long its text is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from medvlm.core.contracts import Outputs
from medvlm.core.joint import Item, Seen, Towers
from medvlm.objectives.joint._base import JointLoss, Objective, Ranks, Tensors


class Config(JointLoss):
    kind: Literal["mylab.lengths"]


def build(config: Config, towers: Towers) -> Lengths:
    return Lengths(towers)


class Lengths(Objective):
    def __init__(self, towers: Towers):
        super().__init__()
        self.guess = nn.Linear(towers.patch_width, 1)

    def read(self, item: Item) -> dict[str, torch.Tensor]:
        return {"words": torch.tensor(len(item.text.split()))}

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        return {"guess": self.guess(seen.pooled_NE)[:, 0], "words": read["words"]}

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"": (outputs["guess"].float() - outputs["words"].float().log()).square().sum()}
