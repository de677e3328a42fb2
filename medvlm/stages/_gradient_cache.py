"""Gradients of a loss that compares the samples of all micro-batches, with the memory of one (GradCache, arXiv
2101.06983, section 3).

All micro-batches are embedded without gradients; then the loss and its gradient by the embeddings are computed; then
each micro-batch is embedded again, and its gradient is passed on. This costs a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medvlm.core.contracts import Outputs
from medvlm.train.accumulate import RandomState, get_random_state, set_random_state
from medvlm.train.terms import Loss, Measured, Term


@dataclass(frozen=True)
class Cache:
    """What the first pass found for one micro-batch.

    share: of the samples of all micro-batches of this rank. measured: losses and terms of them all. slopes: loss ->
    output -> derivative of the loss by this micro-batch's output. random: the random state before the first pass, so
    that both passes drop out the same."""

    share: float
    measured: Measured
    slopes: Mapping[str, Mapping[str, torch.Tensor]]
    random: RandomState

    def replay(self, embed: Callable[[], Outputs], device: torch.device) -> Measured:
        """Losses and terms of the micro-batch, with the gradients of the joint loss. embed: the second pass."""
        set_random_state(self.random, device)
        outputs = embed()
        found: dict[Any, Loss | Term] = {}
        for name, term in self.measured.items():
            if isinstance(term, Term):
                found[name] = Term(term.sum * self.share, term.weight * self.share)
                continue
            passed_on = torch.stack(
                [(outputs[key] * slope).sum() for key, slope in self.slopes[str(name)].items()]
            ).sum()
            found[name] = Loss(term.sum * self.share + passed_on - passed_on.detach(), term.weight * self.share)
        return found


def fill_caches(
    micros: Sequence[Any],
    embed: Callable[[Any], Outputs],
    measure: Callable[[Outputs], Measured],
    device: torch.device,
) -> list[Cache]:
    """The first pass over the micro-batches of a step, which are of equal size.

    embed: micro-batch -> outputs: [n, ...], one row a sample, or without axes if they do not depend on the samples.
    measure: the outputs of all samples -> losses and terms."""
    states, parts = [], []
    with torch.no_grad():
        for micro in micros:
            states.append(get_random_state(device))
            parts.append(embed(micro))
    joint = {
        name: (torch.cat([part[name] for part in parts]) if each.ndim else each)
        .detach()
        .requires_grad_(each.is_floating_point())
        for name, each in parts[0].items()
    }
    with torch.enable_grad():
        measured = measure(joint)
    asked = {name: each for name, each in joint.items() if each.requires_grad}
    losses = {str(name): term for name, term in measured.items() if isinstance(term, Loss)}
    slopes: dict[str, dict[str, torch.Tensor]] = {}
    for number, (name, loss) in enumerate(losses.items(), 1):
        found = torch.autograd.grad(
            loss.sum, list(asked.values()), retain_graph=number < len(losses), allow_unused=True
        )
        slopes[name] = {key: slope for key, slope in zip(asked, found, strict=True) if slope is not None}
    values: Measured = {
        name: Loss(term.sum.detach(), term.weight) if isinstance(term, Loss) else term
        for name, term in measured.items()
    }
    count = len(micros)

    def cut(name: str, slope: torch.Tensor, number: int) -> torch.Tensor:
        return slope.chunk(count)[number] if joint[name].ndim else slope / count

    return [
        Cache(
            1 / count,
            values,
            {loss: {name: cut(name, slope, number) for name, slope in own.items()} for loss, own in slopes.items()},
            states[number],
        )
        for number in range(count)
    ]
