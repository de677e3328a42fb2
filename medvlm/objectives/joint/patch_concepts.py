"""The patches of an image are aligned with the concepts that its text names (ConceptCLIP, arXiv 2501.15579, PC-Align).

Axes: N pairs, R patches, K concepts of a text, T tokens, P width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import logsigmoid, normalize
from torch.utils.checkpoint import checkpoint

from medvlm.core.contracts import Outputs
from medvlm.core.joint import Item, Seen, Towers
from medvlm.core.terminology import Terminology
from medvlm.objectives.joint._base import JointLoss, Objective, Ranks, Tensors, widen
from medvlm.objectives.joint._mentions import Mentions


class Config(JointLoss):
    kind: Literal["patch_concepts"]
    weight: float = Field(0.5, gt=0)
    """Factor on the loss; that of ConceptCLIP is 0.5."""
    width: int = Field(256, gt=0)
    """Width of the space in which patches and concepts are compared."""
    dictionary: Terminology
    """Names of concepts, with other words for each. They are found in texts as whole words, whatever their case."""
    most: int = Field(16, gt=0)
    """Concepts of a text that count, the first ones."""


def build(config: Config, towers: Towers) -> PatchConcepts:
    return PatchConcepts(config, towers)


class PatchConcepts(Objective):
    """Deviations from ConceptCLIP: concepts are found by their words in a dictionary of the recipe, and not by scispaCy
    in UMLS; the sum is divided by the number of concepts of all ranks, and not by that of each rank's block."""

    def __init__(self, config: Config, towers: Towers):
        super().__init__()
        self.config, self.mentions = config, Mentions(config.dictionary)
        self.patches = nn.Linear(towers.patch_width, config.width, bias=False)
        self.concepts = nn.Linear(towers.word_width, config.width, bias=False)
        # SigLIP's starting values. Shape [1], because sharded parameters need an axis.
        self.log_scale = nn.Parameter(torch.tensor([math.log(10)]))
        self.bias = nn.Parameter(torch.tensor([-10.0]))

    def read(self, item: Item) -> dict[str, torch.Tensor]:
        """spans: first and last token + 1 of each concept, int64 [K, 2]."""
        found = [mention[:2] for mention in self.mentions.find(item)]
        return {"spans": torch.tensor(found[: self.config.most], dtype=torch.long).reshape(-1, 2)}

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        spans_NK2 = read["spans"]
        place_T = torch.arange(seen.words_NTE.shape[1], device=spans_NK2.device)
        inside_NKT = (place_T >= spans_NK2[..., :1]) & (place_T < spans_NK2[..., 1:])
        words_NTP = self.concepts(seen.words_NTE)
        share_NKT = inside_NKT / inside_NKT.sum(2, keepdim=True).clamp(min=1)
        return {
            "patches": normalize(self.patches(seen.patches_NRE), dim=2),
            "concepts": normalize(share_NKT.to(words_NTP.dtype) @ words_NTP, dim=2),
            "is_concept": spans_NK2[..., 0] >= 0,
            "log_scale": self.log_scale.squeeze(0),
            "bias": self.bias.squeeze(0),
        }

    def weigh(self, read: Tensors, count: int) -> dict[str, float]:
        return {"": float((read["spans"][..., 0] >= 0).sum())}

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        """Over own images and the concepts of all ranks; a concept belongs to the image of its text alone."""
        concepts_NKP, is_concept_NK = ranks.gather_padded(widen(outputs["concepts"]), outputs["is_concept"])
        scale, bias = outputs["log_scale"].exp(), outputs["bias"]
        patches_NRP, first = widen(outputs["patches"]), ranks.find_own(len(concepts_N)).start
        total = scale.new_zeros(()) + 0 * (scale + bias + patches_NRP.sum() + concepts_NKP.sum())
        for number, patches_RP in enumerate(patches_NRP):
            best_NK = find_best(patches_RP, concepts_NKP)
            own = torch.zeros_like(is_concept_NK)
            own[first + number] = True
            logits_NK = scale * best_NK + bias
            losses_NK = -logsigmoid(torch.where(own, logits_NK, -logits_NK))
            total = total + torch.where(is_concept_NK, losses_NK, 0).sum()
        return {"": total}


def find_best(patches_RP: torch.Tensor, concepts_NKP: torch.Tensor) -> torch.Tensor:
    """The cosine [N, K] of each concept with its most similar patch. The scale is positive, so the largest logit is at
    the largest cosine. Similarities of one image at a time are in memory."""

    def compute(patches_RP: torch.Tensor, concepts_NKP: torch.Tensor) -> torch.Tensor:
        return (concepts_NKP @ patches_RP.T).amax(2)

    if not torch.is_grad_enabled():
        return compute(patches_RP, concepts_NKP)
    found: torch.Tensor = checkpoint(compute, patches_RP, concepts_NKP, use_reentrant=False)
    return found
