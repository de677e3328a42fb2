"""Detects, in the first steps, that several ranks receive identical samples.

Such a run would train like a single process, at the cost of all of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from medvlm.core.errors import DataError
from medvlm.train.engine import Engine

SAMPLES = 16
"""Samples per rank, on average, before the ranks compare. So many equal samples in the same order are no coincidence,
unless the data set has only a handful of samples."""


def hash_samples(keys: list[str], first: int) -> float:
    """A hash of the samples of the step that begins at position `first`, which is summed over ranks. It does not depend
    on which rank has which sample. The terms have 32 bits, so float64 is exact."""
    return float(sum(zlib.crc32(f"{first} {key}".encode()) for key in keys))


class Distinct:
    """Collects the sample keys of this rank. The ranks compare them once."""

    def __init__(self, engine: Engine, stage: str, batch: int):
        self.engine, self.stage = engine, stage
        self.keys: list[str] = []
        self.left = 0 if engine.world == 1 else -(-SAMPLES * engine.world // batch)
        """Steps before the comparison. Keys are not counted, because the ranks may have unequal numbers of samples."""

    def see(self, keys: Sequence[str]) -> None:
        """Raises DataError if two ranks received the same samples. Called on every rank with the keys of a step."""
        if not self.left:
            return
        self.keys += keys
        self.left -= 1
        if self.left:
            return
        everywhere: list[Any] = [None] * self.engine.world
        dist.all_gather_object(everywhere, self.keys)
        for rank, shown in enumerate(everywhere):
            twin = everywhere.index(shown)  # the first rank with the same samples
            if twin != rank and len(set(shown)) > 1:
                raise DataError(
                    f"stage {self.stage}: ranks {twin} and {rank} received the same {len(shown)} samples"
                    f" ({', '.join(shown[:4])}, ...), because each counts itself as the only process; start all"
                    " processes with a single torchrun command"
                )
