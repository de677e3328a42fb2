"""What protocols share that judge media on all of their stored pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvlm.core.ask import Ask
from medvlm.models.sliding import Windows


class Around:
    """The model under evaluation, read in windows."""

    def __init__(self, model: Any, windows: Windows):
        self.model, self.windows = model, windows
        self.can: frozenset[str] = model.can

    @property
    def identity(self) -> Mapping[str, Any]:
        flips = {"flips": list(self.windows.flips)} if self.windows.flips else {}
        return {**self.model.identity, "overlap": self.windows.overlap, **flips}

    def find_box_extent(self, ask: Ask) -> tuple[float, float]:
        extent: tuple[float, float] = self.model.find_box_extent(ask)
        return extent

    def draw_thumbnail(self, ask: Ask) -> bytes:
        drawn: bytes = self.model.draw_thumbnail(ask)
        return drawn

    def decode(self, asks: Sequence[Ask]) -> list[Any]:
        return [self.decode_one(ask) for ask in asks]

    def decode_one(self, ask: Ask) -> Any:
        raise NotImplementedError
