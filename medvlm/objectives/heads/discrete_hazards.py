"""Likelihood of hazards in intervals of time (nnet-survival, https://doi.org/10.7717/peerj.6257, equation 2).

A patient whose event is in interval j adds -log h_j and, like all who lived through an interval, -log(1 - h_i) for each
i before it. One who was last seen alive within an interval has lived through it from its middle on (section "Loss
function" there). Events after the last interval are patients who lived through all of them. DeepHit (AAAI 2018) writes
the same likelihood as a softmax over intervals, and adds a ranking term, which is not offered.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from medvlm.core.decoder_config import DecoderConfig, HeadLoss


class Config(HeadLoss):
    kind: Literal["discrete_hazards"]


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return "" if output == "hazard_logits" else "needs a decoder with intervals, such as kind: interval_hazards"


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of patients."""
    return float(len(labels))


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: Any) -> torch.Tensor:
    """logits: [N, J]. labels: [N, 2], (time, 1 for an event and 0 for last seen without). An event at an edge is in the
    interval that ends there."""
    time_N1, happened_N1 = labels[:, :1], labels[:, 1:] == 1
    ends_J = torch.tensor(decoder.edges, device=logits.device)
    starts_J = pad(ends_J, (1, 0))[:-1]
    died_NJ = happened_N1 & (starts_J < time_N1) & (time_N1 <= ends_J)
    died_NJ = died_NJ | (happened_N1 & (time_N1 <= 0) & (starts_J == 0))  # on the first day
    lived_NJ = torch.where(happened_N1, ends_J < time_N1, (starts_J + ends_J) / 2 <= time_N1)
    losses_NJ = binary_cross_entropy_with_logits(logits.float(), died_NJ.float(), reduction="none")
    return (losses_NJ * (died_NJ | lived_NJ)).sum()
