"""What losses of masks share: probabilities and truth of each class, without the pixels that nobody labelled.

A mask that speaks of some of several exclusive classes says of its other pixels that they are background or one of the
other classes. The probability of that is the sum of theirs, and nothing else is compared there (marginal loss: Shi et
al. 2021, arXiv 2007.03868, section 3.2). So the classes of a decoder can come from data sets that label different ones.

Axes: N samples, K classes, then pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import one_hot

from medvlm.core.decoder_config import MISSING, UNCERTAIN, DecoderConfig


class Compared(NamedTuple):
    """soft: probabilities, float32. truth: 0 and 1. Both are [N, K, *pixels], and 0 where `is_there`, of the same
    shape, is false: at pixels without a label, and for classes that a mask does not speak of. K leaves out the
    background, unless it was asked for."""

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
        absent = find_absent(labels, logits.shape[1] - 1)
        is_there = (labels != MISSING)[:, None] & ~absent
        truth = one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1)
        soft = logits.float().softmax(1)
        if background:
            soft = torch.cat([soft[:, :1] + (soft * absent).sum(1, keepdim=True), soft[:, 1:]], 1)
        else:
            truth, soft, is_there = truth[:, 1:], soft[:, 1:], is_there[:, 1:]
    else:
        is_there, truth, soft = labels != MISSING, labels.clamp(min=0), logits.float().sigmoid()
    return Compared(soft * is_there, truth * is_there, is_there)


def add_up_classes(losses_NK: torch.Tensor, compared: Compared, decoder: DecoderConfig) -> torch.Tensor:
    """The sum that count_classes() is the number of."""
    counts_NK = compared.is_there.flatten(2).any(-1)
    losses_N = (losses_NK * counts_NK).sum(1)
    return (losses_N / counts_NK.sum(1).clamp(min=1)).sum() if decoder.exclusive else losses_N.sum()


def find_absent(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Of labels of exclusive classes [N, *pixels], whether the mask does not speak of the background (never) and of
    each class: bool [N, 1 + classes, 1 ...]."""
    bits_N = (UNCERTAIN - labels.flatten(1).amin(1)).clamp(min=0)
    absent_NK = bits_N[:, None] >> torch.arange(classes, device=labels.device) & 1
    none_N1 = torch.zeros_like(absent_NK[:, :1])
    return torch.cat([none_N1, absent_NK], 1).bool().view(len(labels), 1 + classes, *[1] * (labels.ndim - 1))


def find_open(labels: torch.Tensor) -> torch.Tensor:
    """Whether a pixel is background or of a class that its mask does not speak of."""
    return labels < UNCERTAIN


def log_joined(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The logarithm of the probability of that, [N, *pixels]. logits: [N, 1 + K, *pixels], float32."""
    is_joined = find_absent(labels, logits.shape[1] - 1).clone()
    is_joined[:, 0] = True
    return logits.masked_fill(~is_joined, -torch.inf).logsumexp(1) - logits.logsumexp(1)


def add_up_samples(losses_N: torch.Tensor, compared: Compared) -> torch.Tensor:
    """The sum that count_samples() is the number of."""
    return (losses_N * compared.is_there.flatten(1).any(-1)).sum()
