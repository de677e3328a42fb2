"""The classes of a decoder that gives a set of masks: a query that is matched with a segment is of its class, and all
others are of nothing, which counts less (Mask2Former, arXiv 2112.01527, section 3.3)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn.functional import log_softmax

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._segments import explain_unfit, list_segments, match_each


class Config(HeadLoss):
    kind: Literal["set_classes"]
    weight: float = Field(2.0, gt=0)
    nothing: float = Field(0.1, gt=0)
    """Weight of a query that is of nothing, against one that is matched."""


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: Any) -> float:
    """The weights of all queries of samples with a label."""
    counts = [min(len(each.of_T), decoder.queries) for each in list_segments(labels, decoder) if each is not None]
    return float(sum(count + config.nothing * (decoder.queries - count) for count in counts))


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """A query without a segment may also be of a class that the labels do not speak of: the sum of these probabilities
    counts. logits: packed sets of masks, see core/mask_sets.py."""
    total = 0 * logits.float().sum()
    if logits.is_meta:  # a plan has no values to compare
        return total
    for found, segments, at, taken in match_each(logits, labels, decoder):
        sure_QC = log_softmax(found.told, 1)
        matched = sure_QC[at, segments.of_T[taken]]
        is_free = torch.ones(len(sure_QC), dtype=torch.bool, device=sure_QC.device).index_fill(0, at, False)
        free = sure_QC[is_free][:, segments.open_C].logsumexp(1)
        total = total - matched.sum() - config.nothing * free.sum()
    return total
