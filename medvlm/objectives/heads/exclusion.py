"""Exclusion loss of masks that do not speak of all classes: a class that a mask does not speak of cannot be where it
marks another one (Shi et al. 2021, arXiv 2007.03868, section 3.3, exclusion Dice).

For each such class: 2 sum(p e) / (sum(p) + sum(e) + smooth), p: its probability, e: 1 where the mask marks any class.
It is 0 for a mask that speaks of all classes; a second loss, such as `dice`, says what its own classes are. Differing
from the paper, classes that a mask speaks of have no term: other losses compare them pixel by pixel.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from medvlm.core.decoder_config import MISSING, DecoderConfig, HeadLoss
from medvlm.objectives.heads import _masks


class Config(HeadLoss):
    kind: Literal["exclusion"]
    smooth: float = Field(1.0, gt=0)
    """Number of pixels added to the denominator."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    if not decoder.exclusive:
        return "needs classes that exclude each other; remove it, or set `exclusive: true`"
    return _masks.explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of samples whose masks do not speak of all classes."""
    return float(_masks.find_open(labels).flatten(1).any(1).sum())


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: [N, 1 + K, *pixels]. labels: int64 [N, *pixels]. The mean over the classes of each sample. Pixels without
    a label are ignored."""
    absent_NK = _masks.find_absent(labels, logits.shape[1] - 1)[:, 1:].flatten(1)
    is_there, is_marked = (each[:, None].flatten(2) for each in (labels != MISSING, labels > 0))
    soft = logits.float().softmax(1)[:, 1:].flatten(2) * is_there
    shared_NK, either_NK = (soft * is_marked).sum(-1), soft.sum(-1) + is_marked.sum(-1)
    losses_NK = absent_NK * 2 * shared_NK / (either_NK + config.smooth)
    return (losses_NK.sum(1) / absent_NK.sum(1).clamp(min=1)).sum()
