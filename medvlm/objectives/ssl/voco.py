"""VoCo: where in a volume a crop is, told by how much it overlaps each of fixed base crops (arXiv 2402.17300), see
_voco.py."""

from __future__ import annotations

from typing import Any, Literal

from medvlm.objectives.ssl._voco import Voco, VocoConfig


class Config(VocoConfig):
    kind: Literal["voco"]


def build(config: Config, encoder: Any) -> Voco:
    """Raises ShapeError for a number of bases that does not fit the encoder's input."""
    return Voco(config, encoder)
