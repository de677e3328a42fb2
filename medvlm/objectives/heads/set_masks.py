"""The masks of a decoder that gives a set of them: each segment is compared with the query that it is matched with, by
cross-entropy and Dice (Mask2Former, arXiv 2112.01527, section 3.3, equation 4)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from medvlm.core.decoder_config import DecoderConfig, HeadLoss
from medvlm.objectives.heads._segments import SMOOTH, explain_unfit, list_segments, match_each


class Config(HeadLoss):
    kind: Literal["set_masks"]
    cross: float = Field(5.0, ge=0)
    """Weight of the cross-entropy of pixels."""
    dice: float = Field(5.0, ge=0)


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    return explain_unfit(output)


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of segments."""
    return float(sum(len(each.of_T) for each in list_segments(labels, decoder) if each is not None))


def add_up(config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig) -> torch.Tensor:
    """logits: packed sets of masks, see core/mask_sets.py. labels: int64 [N, H, W] or [N, C, H, W]."""
    total = 0 * logits.float().sum()
    if logits.is_meta:  # a plan has no values to compare
        return total
    for found, segments, at, taken in match_each(logits, labels, decoder):
        if not len(at):
            continue
        true_TP, known_TP = (each[taken].flatten(1) for each in (segments.masks_T, segments.known_T))
        large_T = interpolate(
            found.masks[at][None], size=segments.masks_T.shape[1:], mode="bilinear", align_corners=False
        )
        logits_TP = large_T[0].flatten(1)
        cross_TP = binary_cross_entropy_with_logits(logits_TP, true_TP, reduction="none") * known_TP
        share_TP, true_TP = logits_TP.sigmoid() * known_TP, true_TP * known_TP
        both_T = share_TP.sum(1) + true_TP.sum(1)
        dice_T = 1 - (2 * (share_TP * true_TP).sum(1) + SMOOTH) / (both_T + SMOOTH)
        crossed_T = cross_TP.sum(1) / known_TP.sum(1).clamp(min=1)
        total = total + config.cross * crossed_T.sum() + config.dice * dice_T.sum()
    return total
