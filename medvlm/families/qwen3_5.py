"""Qwen3.5: three of four layers are gated delta-nets, whose state runs along the row."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen3_vl import DELTA, TOWER, make_config
from medvlm.families._qwen_vl import compute_positions, find_canvas


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    return make_config(real, "qwen3_5", TOWER, DELTA)


FAMILY = Family(
    tower="visual",
    connectors=("visual.merger",),
    language="language_model",
    codec="bbox_2d",
    types="mm_token_type_ids",
    position_axes=3,
    positions=compute_positions,
    shares_rows=False,
    canvas=find_canvas,
    tiny=make_tiny,
)
