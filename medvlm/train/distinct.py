"""Ranks that are shown the same samples train as one does, at the price of all: noticed in the first steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from medvlm.core.errors import DataError
from medvlm.train.engine import Engine

SAMPLES = 16
"""Per rank, after which it is asked: so many in the same order are no chance unless the data are of a handful of
samples."""


class Distinct:
    """Collects the keys that this rank was shown; the ranks compare theirs once."""

    def __init__(self, engine: Engine, stage: str):
        self.engine, self.stage = engine, stage
        self.keys: list[str] = []
        self.is_asked = engine.world == 1

    def see(self, keys: Sequence[str]) -> None:
        """Raises DataError when two ranks have been shown the same. Called on every rank with the keys of a step."""
        if self.is_asked:
            return
        self.keys += keys
        if len(self.keys) < SAMPLES:
            return
        self.is_asked = True
        everywhere: list[Any] = [None] * self.engine.world
        dist.all_gather_object(everywhere, self.keys)
        for rank, shown in enumerate(everywhere):
            if len(set(shown)) > 1 and (twin := everywhere.index(shown)) != rank:
                raise DataError(
                    f"stage {self.stage}: ranks {twin} and {rank} were shown the same {len(shown)} samples"
                    f" ({', '.join(shown[:4])}, ...): the stream does not know that they are two; start the run with"
                    " torchrun, once for all processes"
                )
