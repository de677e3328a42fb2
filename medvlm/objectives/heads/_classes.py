"""What losses of classes share: what uncertain labels count as, and how much the weights of rare classes are.

Axes: N labels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from medvlm.core.config import Config
from medvlm.core.decoder_config import UNCERTAIN, DecoderConfig
from medvlm.core.errors import did_you_mean

BACKGROUND = "background"
Number = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Balance(Config):
    """Rare classes weigh more."""

    counts: dict[str, Number | tuple[Number, Number]]
    """Class -> how many training samples (or pixels) are of it, e.g. {benign: 900, malignant: 100}. Of classes that do
    not exclude each other, how many have it and how many do not, e.g. {edema: [120, 880]}. For masks of exclusive
    classes also `background`."""
    beta: float | None = Field(None, ge=0, lt=1)
    """By default a class weighs 1 / n. With beta, (1 - beta) / (1 - beta ** n): the effective number of samples, of
    which a class has at most 1 / (1 - beta) (arXiv 1901.05555, equation 2)."""


def explain_unfit(balance: Balance | None, decoder: DecoderConfig, output: str) -> str:
    """Why the counts do not fit the classes of a decoder, or ""."""
    if balance is None:
        return ""
    names = _list_names(decoder, output == "maps")
    for name in names:
        if name not in balance.counts:
            return f"balance.counts lacks {name!r}; expected a count of each of {', '.join(names)}"
    for name, count in balance.counts.items():
        if name not in names:
            return f"balance.counts has {name!r}{did_you_mean(name, names)}; expected {', '.join(names)}"
        if isinstance(count, int) != decoder.exclusive:
            wanted = "a number" if decoder.exclusive else "[how many have it, how many do not]"
            return (
                f"balance.counts.{name}: expected {wanted} for classes with exclusive: {str(decoder.exclusive).lower()}"
            )
    return ""


def weigh_classes(balance: Balance, decoder: DecoderConfig, is_map: bool) -> torch.Tensor:
    """Exclusive classes: the weight of each, [K] with a mean of 1; masks begin with the background. Others: how many
    times as much a positive label of each class weighs as a negative one, [K]."""
    counts = [balance.counts[name] for name in _list_names(decoder, is_map)]
    if not decoder.exclusive:
        return torch.tensor([_size(no, balance.beta) / _size(yes, balance.beta) for yes, no in counts])  # type: ignore
    weights_K = torch.tensor([1 / _size(count, balance.beta) for count in counts])  # type: ignore[arg-type]
    return weights_K / weights_K.mean()


def _size(count: int, beta: float | None) -> float:
    return float(count) if beta is None else (1 - beta**count) / (1 - beta)


def _list_names(decoder: DecoderConfig, is_map: bool) -> tuple[str, ...]:
    return (*([BACKGROUND] if is_map and decoder.exclusive else []), *decoder.classes)


Uncertain = Share | dict[str, Share]
"""What an uncertain label counts as: 1 is present (U-Ones of CheXpert, arXiv 1901.07031, section 3.1), 0 is absent
(U-Zeros), a number between them is a soft label; class -> number for some classes. Others are ignored (U-Ignore)."""


def explain_unknown(uncertain: Uncertain | None, decoder: DecoderConfig) -> str:
    """Why a setting for uncertain labels does not fit the classes of a decoder, or ""."""
    for name in uncertain if isinstance(uncertain, Mapping) else ():
        if name not in decoder.classes:
            near = did_you_mean(name, decoder.classes)
            return f"uncertain has {name!r}{near}; the decoder has {', '.join(decoder.classes)}"
    return ""


def soften(
    labels: torch.Tensor, uncertain: Uncertain | None, smoothing: float, decoder: DecoderConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels [N, K, ...] of 0, 1, MISSING and UNCERTAIN -> (targets in [0, 1], float32; whether each counts, bool).

    smoothing: 1 becomes 1 - smoothing / 2 and 0 becomes smoothing / 2. Uncertain labels are not smoothed."""
    wanted, counts = labels.clamp(min=0).float(), labels >= 0
    if smoothing:
        wanted = wanted * (1 - smoothing) + smoothing / 2
    if uncertain is not None:
        given = uncertain if isinstance(uncertain, Mapping) else dict.fromkeys(decoder.classes, uncertain)
        shares = [given.get(name, -1.0) for name in decoder.classes]
        shares_K = torch.tensor(shares, device=labels.device).view(-1, *[1] * (labels.ndim - 2))
        is_open = (labels == UNCERTAIN) & (shares_K >= 0)
        wanted, counts = torch.where(is_open, shares_K.expand_as(wanted), wanted), counts | is_open
    return wanted, counts
