"""Other models that look at an image for the one that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from medvlm.core.sample import Sample

if TYPE_CHECKING:
    import numpy as np


class Expert(Protocol):
    def look(self, sample: Sample, files: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Class -> probability in the first medium; and class -> the probability of each stored pixel [H, W]."""


OpenExpert = Callable[[str], Expert]
"""Another model, by its run or folder."""


@dataclass(frozen=True)
class Images:
    """What a question is about: a sample with its files, bytes or arrays by member, and other models that can look at
    them."""

    sample: Sample
    files: Mapping[str, Any]
    open_expert: OpenExpert
