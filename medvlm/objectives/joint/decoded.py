"""A decoder predicts labels of the image, with the losses that the stage `heads` has: contrast and labels together
(Merlin, arXiv 2406.06512: reports and 1,692 phecodes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from medvlm.core.config import Slot, component
from medvlm.core.contracts import Features, Outputs
from medvlm.core.decoder_config import MISSING
from medvlm.core.joint import Item, Seen, Towers
from medvlm.objectives.joint._base import JointLoss, Objective, Ranks, Tensors

LOSSES = "objectives.heads"


class Config(JointLoss):
    kind: Literal["decoded"]
    decoder: Annotated[Any, Slot("decoders")]
    """What it predicts, of which questions (`answers`)."""
    losses: tuple[Annotated[Any, Slot(LOSSES, or_default=True)], ...] = Field(min_length=1)
    """As in the stage `heads`: kinds, or settings."""


def build(config: Config, towers: Towers) -> Decoded:
    return Decoded(config, towers)


def refuse(config: Config, model: Any) -> str:
    output = component("decoders", config.decoder.kind).OUTPUT
    if output != "scores":
        return f"{config.decoder.kind} gives {output}; only decoders of class scores can be trained here"
    for loss in config.losses:
        module = component(LOSSES, loss.kind)
        if why := module.refuse(loss, config.decoder, output):
            return f"{loss.kind} {why}"
        if getattr(module, "JOINT", False):
            return f"{loss.kind} compares the samples of a batch; use a stage of decoders"
    return ""


class Decoded(Objective):
    def __init__(self, config: Config, towers: Towers):
        super().__init__()
        self.config = config
        module: Any = component("decoders", config.decoder.kind)
        self.decoder = module.build(config.decoder, towers.patch_width, towers.grid, towers.input_shape)

    def read(self, item: Item) -> dict[str, torch.Tensor]:
        """wanted: int64, [] of exclusive classes or [K]; MISSING where the sample has no such question."""
        decoder = self.config.decoder
        asked = [question for question in item.sample.questions if question.template == decoder.answers]
        if asked:
            return {"wanted": torch.from_numpy(item.label(asked[0], decoder))}
        return {"wanted": torch.full(() if decoder.exclusive else (len(decoder.classes),), MISSING)}

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        logits = self.decoder(Features(seen.patches_NRE, seen.pooled_NE, seen.grid))
        return {"logits": logits, "wanted": read["wanted"]}

    def weigh(self, read: Tensors, count: int) -> dict[str, float]:
        return self._of_losses(lambda module, loss: module.weigh(loss, read["wanted"], self.config.decoder))

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        logits, labels, decoder = outputs["logits"], outputs["wanted"], self.config.decoder
        return self._of_losses(
            lambda module, loss: loss.weight * module.add_up(loss, logits, labels, decoder) + 0 * logits.sum()
        )

    def _of_losses(self, compute: Any) -> dict[str, Any]:
        """Loss -> what is computed of it. A single one needs no name of its own."""
        alone = len(self.config.losses) == 1
        named: Mapping[str, Any] = {
            "" if alone else loss.kind.rpartition(".")[2]: compute(component(LOSSES, loss.kind), loss)
            for loss in self.config.losses
        }
        return dict(named)
