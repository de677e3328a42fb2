"""What losses of masks share: probabilities and truth of each class, without the pixels that nobody labelled.

Axes: N samples, K classes, then pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import one_hot

from medvlm.core.decoder_config import MISSING, DecoderConfig


class Compared(NamedTuple):
    """soft: probabilities, float32. truth: 0 and 1. Both are [N, K, *pixels], and 0 where `is_there`, of the same
    shape, is false: at pixels without a label. K leaves out the background, unless it was asked for."""

    soft: torch.Tensor
    truth: torch.Tensor
    is_there: torch.Tensor


def explain_unfit(output: str) -> str:
    """Why a loss of masks does not suit a decoder with this OUTPUT, or ""."""
    return "" if output == "maps" else "compares masks, but this decoder predicts one score per class"


def count_classes(labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """Number of (sample, class) pairs with a labelled pixel. Exclusive labels do not tell the number of classes, so
    only samples are counted, and add_up_classes() takes the mean over classes."""
    is_there = labels != MISSING
    return float(is_there.flatten(1 if decoder.exclusive else 2).any(-1).sum())


def count_samples(labels: torch.Tensor) -> float:
    """Number of samples with a labelled pixel."""
    return float((labels != MISSING).flatten(1).any(-1).sum())


def compare(logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig, background: bool = False) -> Compared:
    """logits: [N, K, *pixels]. labels: int64 [N, *pixels], or [N, K, *pixels] of 0 and 1 if not exclusive. background:
    whether that of exclusive classes counts as a class."""
    if decoder.exclusive:
        is_there = (labels != MISSING)[:, None]
        truth = one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1)
        soft = logits.float().softmax(1)
        if not background:
            truth, soft = truth[:, 1:], soft[:, 1:]
    else:
        is_there, truth, soft = labels != MISSING, labels.clamp(min=0), logits.float().sigmoid()
    is_there = is_there.expand_as(soft)
    return Compared(soft * is_there, truth * is_there, is_there)


def add_up_classes(losses_NK: torch.Tensor, compared: Compared, decoder: DecoderConfig) -> torch.Tensor:
    """The sum that count_classes() is the number of."""
    losses_NK = losses_NK * compared.is_there.flatten(2).any(-1)
    return losses_NK.mean(1).sum() if decoder.exclusive else losses_NK.sum()


def add_up_samples(losses_N: torch.Tensor, compared: Compared) -> torch.Tensor:
    """The sum that count_samples() is the number of."""
    return (losses_N * compared.is_there.flatten(1).any(-1)).sum()
