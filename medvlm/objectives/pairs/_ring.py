"""The loss of a rank's pairs while the pairs of other ranks travel past, so that no rank ever holds those of all.

Axes: n pairs of this rank, m of the rank whose block has arrived (the same number), P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Rotate = Callable[..., tuple[torch.Tensor, ...]]
"""Sends tensors to the next rank, and returns those of the one before."""
Rows = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Ring:
    """What travels how far. world: the number of ranks."""

    rotate: Rotate
    world: int


def add_up_ring(
    objective: Any,
    config: Any,
    images: torch.Tensor,
    texts: torch.Tensor,
    concepts: torch.Tensor,
    log_scale: torch.Tensor,
    bias: torch.Tensor | None,
    ring: Ring,
) -> tuple[torch.Tensor, float]:
    """The same as the objective's `pair_loss` over the pairs of all ranks, and the number of own images whose most
    similar text is one of theirs.

    images, texts: unit vectors [n, P] of this rank. concepts: int64 [n]; equal numbers mark pairs that match. The
    largest tensors have n x m elements, whatever the number of ranks. Blocks go around twice: first each row collects
    what its loss needs of all columns, then its gradient is found. So the gradient of the loss of all ranks is known
    without a backward pass over ranks. Called on every rank, with equally many pairs. Source: the exchange of SigLIP
    (arXiv 2303.15343, section 3.3), extended to losses that normalize a row."""
    scale = objective.find_scale(log_scale)
    shift = scale.new_zeros(()) if bias is None else bias
    loss, hits = _Ring.apply(images, texts, scale, shift, concepts, objective, config, ring, torch.is_grad_enabled())
    return loss, float(hits)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        texts: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor,
        concepts: torch.Tensor,
        objective: Any,
        config: Any,
        ring: Ring,
        is_trained: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of = _Block((images, texts), scale, shift, concepts, objective, objective.weigh_directions(config))
        found, hits = of.collect(ring)
        loss = of.compute_loss(found)
        if is_trained:
            ctx.save_for_backward(*of.compute_slopes(found, ring))
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*(grads[0] * slope for slope in ctx.saved_tensors), None, None, None, None, None)


@dataclass(frozen=True)
class _Block:
    """The pairs of this rank. mine: its images and its texts. weights: of the loss from images to texts, and of that
    from texts to images."""

    mine: tuple[torch.Tensor, torch.Tensor]
    scale: torch.Tensor
    shift: torch.Tensor
    concepts: torch.Tensor
    objective: Any
    weights: tuple[float, float]

    def _compare(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return self.scale * (rows @ columns.T) + self.shift

    def collect(self, ring: Ring) -> tuple[list[Rows], torch.Tensor]:
        """What the losses of the own images need of all texts, and those of the own texts of all images; and hits."""
        found: list[Rows] = [(), ()]
        best = torch.full_like(self.mine[0][:, 0], -torch.inf)
        is_hit = torch.zeros_like(self.concepts, dtype=torch.bool)
        block: Rows = (*self.mine, self.concepts)
        for hop in range(ring.world):
            *theirs, concepts = block
            same = self.concepts[:, None] == concepts
            for a, b in (0, 1), (1, 0):
                logits = self._compare(self.mine[a], theirs[b])
                if self.weights[a]:
                    part = self.objective.summarize(logits, same)
                    found[a] = self.objective.join(found[a], part) if hop else part
                if a == 0:
                    top, at = logits.max(1)
                    is_hit = torch.where(top > best, same.gather(1, at[:, None])[:, 0], is_hit)
                    best = torch.maximum(best, top)
            if hop + 1 < ring.world:
                block = ring.rotate(*block)
        return found, is_hit.sum()

    def compute_loss(self, found: list[Rows]) -> torch.Tensor:
        sums = [
            self.objective.sum_rows(*rows) * weight for weight, rows in zip(self.weights, found, strict=True) if weight
        ]
        return torch.stack(sums).sum()

    def compute_slopes(self, found: list[Rows], ring: Ring) -> tuple[torch.Tensor, ...]:
        """Of the loss of all ranks by the own images and texts, and of the own loss by scale and shift."""
        of_mine = [torch.zeros_like(each) for each in self.mine]
        of_scale, of_shift = torch.zeros_like(self.scale), torch.zeros_like(self.shift)
        block: Rows = (*self.mine, self.concepts, *found[0], *found[1])
        for hop in range(ring.world):
            theirs, same = block[:2], self.concepts[:, None] == block[2]
            arrived = block[3 : 3 + len(found[0])], block[3 + len(found[0]) :]
            for a, b in (0, 1), (1, 0):
                if not self.weights[a]:
                    continue
                cosine = self.mine[a] @ theirs[b].T
                slope = self.weights[a] * self.objective.slope(self.scale * cosine + self.shift, same, *found[a])
                of_scale += (slope * cosine).sum()
                of_shift += slope.sum()
                of_mine[a] += self.scale * slope @ theirs[b]
                # The rows of the other rank, in which what is of this rank is a column.
                logits = self._compare(theirs[a], self.mine[b])
                slope = self.weights[a] * self.objective.slope(logits, same.T, *arrived[a])
                of_mine[b] += self.scale * slope.T @ theirs[a]
            if hop + 1 < ring.world:
                block = ring.rotate(*block)
        return (*of_mine, of_scale, of_shift)
