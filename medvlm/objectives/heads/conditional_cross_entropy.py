"""Sigmoid cross-entropy of classes in a tree: of each class over the samples in which its parent is there.

Levels weigh alike: a class of a level with n classes weighs 1 / n, or the many classes of the last level would outweigh
the first ones. A class that is there says that its ancestors are, also where nobody says so. Where the parent is
absent, or not known, a class that is not there says nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.decoder_config import DecoderConfig, HeadLoss


class Config(HeadLoss):
    kind: Literal["conditional_cross_entropy"]


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "" if output == "conditional_scores" else "needs classes in a tree; use a decoder of kind: hierarchy"


def weigh(config: Config, labels: torch.Tensor, decoder: Any) -> float:
    """The sum of the weights of the labels that count."""
    return float(_weigh_labels(labels, decoder)[1].double().sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: Any) -> torch.Tensor:
    """logits, labels: [N, K]; labels are 0, 1, MISSING and UNCERTAIN, which counts as missing."""
    there, weights = _weigh_labels(labels, decoder)
    losses = binary_cross_entropy_with_logits(logits.float(), there.float(), reduction="none")
    return (losses * weights).sum()


def _weigh_labels(labels: torch.Tensor, decoder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each class is there, also by its descendants, and the weights of the labels; [N, K]."""
    number = {name: n for n, name in enumerate(decoder.classes)}
    parent_of = {number[child]: number[parent] for child, parent in decoder.parents.items()}
    levels = [_count_ancestors(n, parent_of) for n in range(len(number))]
    there, known = labels == 1, labels >= 0
    for n in sorted(parent_of, key=lambda n: -levels[n]):  # the deepest first
        there[:, parent_of[n]] |= there[:, n]
        known[:, parent_of[n]] |= there[:, n]
    counts = known.clone()
    for n, parent in parent_of.items():
        counts[:, n] &= there[:, parent]
    shares = torch.tensor([1 / levels.count(level) for level in levels], device=labels.device)
    return there, counts * shares


def _count_ancestors(n: int, parent_of: dict[int, int]) -> int:
    return 1 + _count_ancestors(parent_of[n], parent_of) if n in parent_of else 0
