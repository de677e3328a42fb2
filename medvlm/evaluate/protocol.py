"""What an evaluation needs from whatever answers: a run, an exported folder, a service."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict

from medvlm.core.ask import Ask, Files
from medvlm.core.sample import Sample, Truth

if TYPE_CHECKING:
    import numpy as np


class Answerer(Protocol):
    """Equal asks get equal answers: nothing is drawn at random. What it cannot do is not called."""

    @property
    def can(self) -> Collection[str]:
        """`answer`, `embed`."""

    def box_extent(self, ask: Ask) -> tuple[float, float]:
        """What (width, height) of the canvas that the model perceives are in the units that boxes are written in."""

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        """Greedy answers, in the order of the asks."""

    def seen(self, ask: Ask) -> Truth:
        """The truth with its boxes in answer coordinates."""

    def thumbnail(self, ask: Ask) -> bytes:
        """PNG of the perceived canvas."""

    def embed_media(self, items: Sequence[tuple[Sample, Files]]) -> np.ndarray:
        """Unit vectors [N, E]."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [N, E]."""


class Shards(Protocol):
    """What is read of medvlm.io.shards.ShardSet."""

    fingerprint: str

    def read(self, split: str, i: int) -> tuple[Sample, dict[str, bytes]]: ...


class Progress(Protocol):
    def __call__(self, what: str, done: int, total: int) -> None: ...


class Paired(TypedDict):
    """value minus the baseline's, on the same draws of patients: above 0 is better, except where less is better
    (mae)."""

    against: str
    difference: float
    ci: list[float]


class Row(TypedDict):
    """One result. metric: `accuracy`, or `accuracy:TEMPLATE` for the questions of one template. ci: 95 %."""

    dataset: str
    split: str
    task: str
    metric: str
    value: float
    ci: list[float]
    n: int
    baselines: dict[str, float]
    paired: Paired | None
