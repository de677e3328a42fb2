"""What a model costs: parameters, operations, and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medvlm.core.contracts import Preprocess
from medvlm.models.decoding import Decoding, Labelled
from medvlm.models.parts import evaluating

WARM, TIMED = 3, 10
"""Passes before those that are timed, and these."""


@dataclass(frozen=True)
class Cost:
    """Of one input. parameters: of the model. flops: two for a multiplication with its addition, as torch counts them;
    of matrix products, convolutions and attention alone. inputs_per_s: one at a time, by the median of TIMED passes."""

    parameters: int
    flops: int
    inputs_per_s: float


def measure_cost(model: nn.Module, run: Callable[[], object], device: torch.device) -> Cost:
    """run: answers for one input."""
    with evaluating(model):
        with FlopCounterMode(display=False) as counter:
            run()
        seconds = []
        for number in range(WARM + TIMED):
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= WARM:
                seconds.append(time.perf_counter() - start)
    count = sum(parameter.numel() for parameter in model.parameters())
    return Cost(count, counter.get_total_flops(), 1 / median(seconds))


def measure_decoding(model: Decoding, preprocess: Mapping[str, Preprocess], device: torch.device) -> Cost:
    """Of an input of the first encoder that a decoder reads, and all decoders that read it."""
    encoder = next(iter(model.reads.values()))
    reading = {name: torch.tensor([0]) for name, own in model.reads.items() if own == encoder}
    batch = Labelled({encoder: torch.zeros(1, *preprocess[encoder].shape)}, reading).to(device)
    return measure_cost(model, lambda: model(batch), device)
