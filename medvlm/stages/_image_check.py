"""Checks that the images matter to the model.

A model whose images get lost before they reach it still trains, and its loss still falls."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from medvlm.core.errors import ImageNotUsed
from medvlm.core.sample import Batch
from medvlm.models.parts import evaluating, is_trained
from medvlm.objectives.next_token import read_losses

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

EVERY, GRACE = 500, 8
"""Micro-batches between two checks, and before the second one. A connector that is initialized with zeros passes
nothing on until it has been updated, so the first check may be inconclusive."""


class ImageCheck:
    """Checks the first, the ninth and every 500th micro-batch. A check costs two forward passes."""

    def __init__(self, stage: str, engine: Engine):
        self.stage, self.engine, self.num_seen = stage, engine, 0

    def look(self, model: Any, batch: Batch) -> None:
        """Raises ImageNotUsed if the answers are exactly as probable with blank images.

        Called on every rank, for every micro-batch of training."""
        if next(model.parameters()).is_meta:
            return  # tensors on the meta device have no values to compare
        number = self.num_seen
        self.num_seen += 1
        if number not in (0, GRACE) and number % EVERY:
            return
        can_tell = bool(len(batch.feature_rows) and len(batch.targets_L))
        with evaluating(model), self.engine.autocast():
            # As in training, and on all ranks then: weights of all blocks at once may be more than a rank can hold.
            matters = (can_tell or self.engine.runs_all) and uses_images(model, batch)
        if matters or not can_tell:
            return
        if number >= GRACE or not is_trained(model.connectors):
            raise ImageNotUsed(
                f"stages.{self.stage}: the answers to {', '.join(batch.keys[:3])} are exactly as probable with a blank"
                " image as with their own, so the model does not see its images; check what lies between the"
                " pixels and the language model (encoder weights, connector, chat template)"
            )


def uses_images(model: Any, batch: Batch) -> bool:
    """Whether blank images change the log-probability of any trained token."""
    shown, unseen = (model(each, read_losses)["losses_L"] for each in (batch, blank_images(batch)))
    return not torch.equal(shown, unseen)


def blank_images(batch: Batch) -> Batch:
    """The same with blank images of the same sizes."""
    # Ones, because some families take zeros for padding. Integer tensors hold sizes and masks, so they stay.
    media = {name: torch.ones_like(t) if t.is_floating_point() else t for name, t in batch.media.items()}
    return replace(batch, media=media)
