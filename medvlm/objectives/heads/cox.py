"""Partial likelihood of Cox's proportional hazards over the whole batch of all ranks, with Efron's rule for ties.

Of each event at time t, -log of (exp(r) of the patient / the sum of exp(r) over all who were under observation at t);
with d events at t, the k-th of them (k = 0 ... d - 1) leaves out k / d of the sum over these d (Efron 1977,
https://doi.org/10.1080/01621459.1977.10480613). Without ties it equals Breslow's rule, which leaves out nothing and
biases towards 0 where many events have the same time, as with whole months.
A batch stands for all patients, so a batch should hold many events: the loss of two patients says who dies first, and
that of one is 0.
"""

from __future__ import annotations

from typing import Literal

import torch

from medvlm.core.decoder_config import DecoderConfig, HeadLoss

JOINT = True


class Config(HeadLoss):
    kind: Literal["cox"]


def refuse(config: Config, decoder: DecoderConfig, output: str) -> str:
    if output == "log_hazard_ratio":
        return ""
    return "needs a decoder of hazard ratios, such as kind: proportional_hazards"


def weigh(config: Config, labels: torch.Tensor, decoder: DecoderConfig) -> float:
    """The number of events."""
    return float((labels[:, 1] == 1).sum())


def add_up(
    config: Config, logits: torch.Tensor, labels: torch.Tensor, decoder: DecoderConfig, own: slice
) -> torch.Tensor:
    """logits: [M, 1], the log hazard ratios of all ranks. labels: [M, 2], (time, 1 for an event and 0 for last seen
    without). own: the rows of this rank, whose events it adds up."""
    risk_M, time_M, happened_M = logits[:, 0].float(), labels[:, 0], labels[:, 1] == 1
    number_M = torch.arange(len(labels), device=labels.device)
    own_N1, happened_N = number_M[own, None], happened_M[own]
    is_after_NM, is_then_NM = time_M >= time_M[own_N1], happened_M & (time_M == time_M[own_N1])
    before_N = (is_then_NM & (number_M < own_N1)).sum(1)
    left_out_N = torch.where(happened_N, before_N / is_then_NM.sum(1).clamp(min=1), 0.0)
    everyone_N = _log_sum(risk_M, is_after_NM)
    # With the row itself, which may have no event: a sum over nothing would send NaN through the gradient.
    then_N = _log_sum(risk_M, is_then_NM | (number_M == own_N1))
    losses_N = everyone_N + torch.log1p(-left_out_N * (then_N - everyone_N).exp()) - risk_M[own]
    return torch.where(happened_N, losses_N, 0.0).sum()


def _log_sum(risk_M: torch.Tensor, of_NM: torch.Tensor) -> torch.Tensor:
    return risk_M.expand_as(of_NM).masked_fill(~of_NM, -torch.inf).logsumexp(1)
