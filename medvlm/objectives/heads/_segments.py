"""What the losses of a set of masks share: the segments of an image, and which query is of which (Mask2Former, arXiv
2112.01527, section 3.3).

The pixels of a class are a segment, the background too where classes exclude each other. Pixels without a label count
for nothing. Differing from the paper, all pixels are compared, not some of them drawn by chance; where queries are
matched, at the size of their masks.
Axes: Q queries, C classes with the background, T segments, P pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.functional import adaptive_avg_pool2d, softplus

from medvlm.core.decoder_config import UNCERTAIN, DecoderConfig
from medvlm.core.mask_sets import MaskSet, unpack
from medvlm.objectives.heads._masks import find_absent
from medvlm.objectives.heads._matching import assign

SMOOTH = 1.0
"""Added to numerator and denominator of Dice."""


class Segments(NamedTuple):
    """of_T: the class of each. masks_T, known_T: 0 and 1 [T, H, W]; known where there is a label. open_C: [C + 1], the
    classes that a query without a segment may be of: nothing, the last one, and those that the labels do not speak
    of."""

    of_T: torch.Tensor
    masks_T: torch.Tensor
    known_T: torch.Tensor
    open_C: torch.Tensor


def explain_unfit(output: str) -> str:
    return "" if output == "mask_set" else "matches a set of masks with segments; use it with a decoder that gives one"


def list_segments(labels: torch.Tensor, decoder: DecoderConfig) -> Iterator[Segments | None]:
    """Of each sample; None for one without any label. labels: as of masks, see HeadLossModule."""
    for own in labels:
        yield _read_exclusive(own, len(decoder.classes)) if decoder.exclusive else _read_planes(own)


def _read_exclusive(labels: torch.Tensor, classes: int) -> Segments | None:
    known = (labels >= 0) | (labels < UNCERTAIN)
    if not known.any():
        return None
    of_T = labels[labels >= 0].unique()
    absent_C = find_absent(labels[None], classes)[0].flatten(1).any(1)
    absent_C[0] = absent_C.any()  # where a class is open, nobody says where the background is
    nothing = torch.ones(1, dtype=torch.bool, device=labels.device)
    masks_T = (labels == of_T[:, None, None]).float()
    return Segments(of_T, masks_T, known.float().expand_as(masks_T), torch.cat([absent_C, nothing]))


def _read_planes(labels_C: torch.Tensor) -> Segments | None:
    known_C = labels_C >= 0
    spoken_C = known_C.flatten(1).any(1)
    if not spoken_C.any():
        return None
    of_T = (labels_C == 1).flatten(1).any(1).nonzero()[:, 0]
    open_C = torch.cat([~spoken_C, spoken_C.new_ones(1)])
    return Segments(of_T, (labels_C[of_T] == 1).float(), known_C[of_T].float(), open_C)


class Matched(NamedTuple):
    """A sample: its set, its segments, and pairs of a query and a segment."""

    found: MaskSet
    segments: Segments
    at: torch.Tensor
    taken: torch.Tensor


def match_each(logits: torch.Tensor, labels: torch.Tensor, decoder: Any) -> Iterator[Matched]:
    """The samples with a label. logits: packed sets [N, Q, ...]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    for rows_Q, segments in zip(wide, list_segments(labels, decoder), strict=True):
        if segments is not None:
            masks_T, known_T = segments.masks_T.to(wide.dtype), segments.known_T.to(wide.dtype)
            segments = Segments(segments.of_T, masks_T, known_T, segments.open_C)
            found = unpack(rows_Q, len(segments.open_C) - 1)
            yield Matched(found, segments, *match(decoder, found, segments))


@torch.no_grad()
def match(decoder: Any, found: MaskSet, segments: Segments) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of queries and of the segments that they are matched with."""
    if not len(segments.of_T):
        return segments.of_T, segments.of_T
    size: Any = found.masks.shape[1:]
    seen_TP = adaptive_avg_pool2d(segments.known_T[None], size)[0].flatten(1)
    true_TP = adaptive_avg_pool2d((segments.masks_T * segments.known_T)[None], size)[0].flatten(1)
    logits_QP = found.masks.flatten(1)
    pixels_T = seen_TP.sum(1).clamp(min=1e-6)
    crossed = softplus(-logits_QP) @ true_TP.T + softplus(logits_QP) @ (seen_TP - true_TP).T
    share_QP = logits_QP.sigmoid()
    shared, both = share_QP @ true_TP.T, share_QP @ seen_TP.T + true_TP.sum(1)
    dice_QT = 1 - (2 * shared + SMOOTH) / (both + SMOOTH)
    told_QT = -found.told.softmax(1)[:, segments.of_T]
    by_class, by_cross, by_dice = decoder.costs
    return assign(by_class * told_QT + by_cross * crossed / pixels_T + by_dice * dice_QT)
