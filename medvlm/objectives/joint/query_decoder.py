"""Findings of a dictionary ask the patches of an image whether they are present (MedKLIP, arXiv 2301.02228, section
3.2; KAD, arXiv 2302.14042).

Axes: N images, R patches, Q findings, T tokens of a description, P width.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.contracts import Outputs
from medvlm.core.decoder_config import DecoderConfig
from medvlm.core.joint import Item, Seen, Towers
from medvlm.core.terminology import Terminology
from medvlm.objectives.joint._base import JointLoss, Objective, Ranks, Tensors, widen


class Config(JointLoss):
    kind: Literal["query_decoder"]
    of: str
    """Template of the questions whose labels say which findings are present. Findings without a label do not count."""
    dictionary: Terminology
    """Finding, as the labels call it -> its description, the first of which is encoded by the text tower."""
    width: int = Field(256, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be divided among {self.heads} heads")
        return self

    def scale_down(self) -> Self:
        return self.model_copy(update={"width": 4 * self.heads, "layers": 1})


def build(config: Config, towers: Towers) -> QueryDecoder:
    return QueryDecoder(config, towers)


class QueryDecoder(Objective):
    """Deviations from MedKLIP: one logit for a finding in place of two, and no loss of its position among eight. The
    descriptions pass the text tower at every step; if it is frozen, their vectors stay the same, as in the paper."""

    ids_QT: torch.Tensor

    def __init__(self, config: Config, towers: Towers):
        super().__init__()
        self.config = config
        # A decoder of this kind is asked for the labels of each finding.
        self.labels = DecoderConfig(
            kind="", classes=tuple(config.dictionary.entries), exclusive=False, answers=config.of
        )
        texts = [towers.tokenize(each[0]) for each in config.dictionary.entries.values()]
        most = max(map(len, texts))
        ids = [text + [towers.pad_id] * (most - len(text)) for text in texts]
        mask = [[1] * len(text) + [0] * (most - len(text)) for text in texts]
        self.register_buffer("ids_QT", torch.tensor(ids), persistent=False)
        self.register_buffer("mask_QT", torch.tensor(mask), persistent=False)
        self.queries = nn.Linear(towers.word_width, config.width)
        self.patches = nn.Linear(towers.patch_width, config.width)
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.layers, nn.LayerNorm(config.width))
        self.present = nn.Linear(config.width, 1)

    def read(self, item: Item) -> dict[str, torch.Tensor]:
        """wanted: int64 [Q], 1 present, 0 absent, below 0 unknown."""
        asked = [question for question in item.sample.questions if question.template == self.config.of]
        if not asked:
            return {"wanted": torch.full((len(self.labels.classes),), -1)}
        return {"wanted": torch.from_numpy(item.label(asked[0], self.labels))}

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        queries_QP = self.queries(seen.embed(self.ids_QT, self.mask_QT))
        memory_NRP = self.patches(seen.patches_NRE)
        found_NQP = self.decoder(queries_QP.expand(len(memory_NRP), -1, -1), memory_NRP)
        return {"logits": self.present(found_NQP)[..., 0], "wanted": read["wanted"]}

    def weigh(self, read: Tensors, count: int) -> dict[str, float]:
        return {"": float((read["wanted"] >= 0).sum())}

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        labels_NQ, logits_NQ = outputs["wanted"], widen(outputs["logits"])
        losses_NQ = binary_cross_entropy_with_logits(logits_NQ, labels_NQ.clamp(min=0).to(logits_NQ), reduction="none")
        return {"": (losses_NQ * (labels_NQ >= 0)).sum()}
