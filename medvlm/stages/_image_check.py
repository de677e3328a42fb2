"""Whether the model looks at the images it is given: a policy whose images were lost on the way still trains, and its
loss still falls."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from medvlm.core.errors import ImageNotUsed
from medvlm.core.sample import Batch
from medvlm.models.parts import evaluating, is_trained
from medvlm.objectives.next_token import log_probability

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

EVERY, GRACE = 500, 8
"""Micro-batches between looks, and before the second: a connector that starts at zero lets nothing through until it has
moved."""


class ImageCheck:
    """Counts micro-batches and looks at the first, the ninth and every 500th, at the cost of two passes without
    gradients."""

    def __init__(self, stage: str, engine: Engine):
        self.stage, self.engine, self.seen = stage, engine, 0

    def look(self, model: Any, batch: Batch) -> None:
        """Raises ImageNotUsed when the answers are exactly as probable with blank images. Called on every rank for each
        micro-batch of training."""
        if next(model.parameters()).is_meta:
            return  # a plan has sizes and no values
        number, self.seen = self.seen, self.seen + 1
        if number not in (0, GRACE) and number % EVERY:
            return
        with evaluating(model), self.engine.unsharded(model):
            if not len(batch.feature_rows) or not len(batch.targets_L) or uses_images(model, batch):
                return
        if number >= GRACE or not is_trained(model.connectors):
            raise ImageNotUsed(
                f"stages.{self.stage}: the answers to {', '.join(batch.keys[:3])} are exactly as probable with a blank"
                " image as with their own, so the model does not see its images; look at what is between pixels and"
                " language model (encoder weights, connector, chat template)"
            )


def uses_images(model: Any, batch: Batch) -> bool:
    """Whether another image changes the log-probability of any trained token."""
    # Ones, since zeros are taken for padding by some families.
    blank = replace(
        batch, media={name: torch.ones_like(t) if t.is_floating_point() else t for name, t in batch.media.items()}
    )
    shown, unseen = (log_probability(model(each)["logits_LV"], each.targets_L, 1.0) for each in (batch, blank))
    return not torch.equal(shown, unseen)
