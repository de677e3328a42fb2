"""Words attend to the regions of an image, and have to find the image that their text belongs to (GLoRIA, ICCV 2021,
equations 3 to 6).

Axes: N pairs of all ranks, n of this rank, R regions, T words, P width.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from medvlm.core.contracts import Outputs
from medvlm.core.joint import Seen, Towers
from medvlm.objectives.joint._base import JointLoss, Objective, Ranks, Tensors, widen


class Config(JointLoss):
    kind: Literal["word_regions"]
    width: int = Field(256, gt=0)
    """Width of the space in which words and regions are compared."""
    focus: float = Field(4.0, gt=0)
    """Factor before the softmax over regions; the larger, the fewer regions a word attends to."""
    word_scale: float = Field(5.0, gt=0)
    """Factor before words are pooled; the larger, the more the best words of a text count."""
    scale: float = Field(10.0, gt=0)
    """Factor before the cross-entropy."""


def build(config: Config, towers: Towers) -> WordRegions:
    return WordRegions(config, towers)


class WordRegions(Objective):
    """Deviations from GLoRIA: pieces of words are words of their own, and texts that match share the target, as in the
    losses of pairs. Tokens that start and end a text do not count."""

    def __init__(self, config: Config, towers: Towers):
        super().__init__()
        self.config = config
        self.regions = nn.Linear(towers.patch_width, config.width)
        self.words = nn.Linear(towers.word_width, config.width)

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        return {
            "regions": self.regions(seen.patches_NRE),
            "words": self.words(seen.words_NTE),
            "is_word": seen.find_inner(),
        }

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        count = len(concepts_N)
        regions_NRP, concepts_N = ranks.gather(widen(outputs["regions"]), concepts_N)
        rows = [
            compute_similarities(self.config, regions_NRP, words_TP, is_word_T)
            for words_TP, is_word_T in zip(widen(outputs["words"]), outputs["is_word"], strict=True)
        ]
        # [text, image]: only these numbers travel, not the words.
        (similarity_NN,) = ranks.gather(torch.stack(rows))
        logits_NN, own = self.config.scale * similarity_NN, ranks.find_own(count)
        same_NN = concepts_N[:, None] == concepts_N
        share_NN = same_NN / same_NN.sum(1, keepdim=True)
        losses = [-(share_NN[own] * each[own].log_softmax(1)).sum() for each in (logits_NN, logits_NN.T)]
        return {"": torch.stack(losses).sum()}


def compute_similarities(
    config: Config, regions_NRP: torch.Tensor, words_TP: torch.Tensor, is_word_T: torch.Tensor
) -> torch.Tensor:
    """The similarity [N] of a text to every image. The attention maps are computed again in the backward pass, so only
    those of one text are in memory."""
    if not torch.is_grad_enabled():
        return _compute(config, regions_NRP, words_TP, is_word_T)
    found: torch.Tensor = checkpoint(_compute, config, regions_NRP, words_TP, is_word_T, use_reentrant=False)
    return found


def _compute(
    config: Config, regions_NRP: torch.Tensor, words_TP: torch.Tensor, is_word_T: torch.Tensor
) -> torch.Tensor:
    scores_NRT = (regions_NRP @ words_TP.T).masked_fill(~is_word_T, -torch.inf)
    # GLoRIA's code normalizes over words before it does over regions, which its text does not say.
    attention_NRT = (config.focus * scores_NRT.softmax(2)).softmax(1)
    context_NTP = attention_NRT.transpose(1, 2) @ regions_NRP
    cosine_NT = (normalize(context_NTP, dim=2) * normalize(words_TP, dim=1)).sum(2)
    return (config.word_scale * cosine_NT).masked_fill(~is_word_T, -torch.inf).logsumexp(1)
