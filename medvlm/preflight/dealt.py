"""The memory of towers whose inputs are dealt over the ranks (engine.deal_media): that of an even share."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from medvlm.core.stage_config import StageConfig
from medvlm.data.mixture import Mixture
from medvlm.data.processor import Pictures
from medvlm.preflight.simulate import Step

DRAWN = 64
"""Steps that are drawn; the one with the most pixels counts."""
TOWERS = "encoders."


def even_out(step: Step, share: float) -> Step:
    """The step with what towers hold multiplied by `share`. Weights and their gradients are not dealt."""
    sections = {
        name: {part: size * (share if part.startswith(TOWERS) else 1.0) for part, size in parts.items()}
        for name, parts in step.sections.items()
    }
    layers = {
        stack: (kept * share, given * share, flops, depth) if stack.startswith(TOWERS) else (kept, given, flops, depth)
        for stack, (kept, given, flops, depth) in step.layers.items()
    }
    return replace(step, sections=sections, layers=layers)


def measure_share(
    config: StageConfig, items: Mapping[str, list[Any]], drawn: list[Any], world: int, seed: int
) -> float:
    """The pixels of one of `world` ranks, if those of a step are dealt evenly, over those of the micro-batch `drawn`.

    items: source -> prepared samples. At most 1, because `drawn` is as large as a rank's micro-batch may be."""
    own = sum(map(count_pixels, drawn))
    if not own:
        return 1.0
    mixture = Mixture({s: w for s, w in config.mix.items() if s in items}, seed, config.name)
    rng, count = random.Random(seed), world * len(drawn)
    steps = [[rng.choice(items[mixture.at(d * count + i)[0]]) for i in range(count)] for d in range(DRAWN)]
    return min(1.0, max(sum(map(count_pixels, step)) for step in steps) / world / own)


def count_pixels(item: Any) -> int:
    """The numbers in the media of a prepared sample."""
    return sum(tensor.numel() for tensor in _list_pixels(vars(item).values()))


def _list_pixels(values: Iterable[Any]) -> Iterable[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor) and value.ndim > 2:
            yield value
        elif isinstance(value, list | tuple):
            yield from _list_pixels(value)
        elif isinstance(value, Pictures):  # the patches of all pictures may be rows of one matrix
            yield from (tensor for tensor in value.tensors.values() if tensor.is_floating_point())
