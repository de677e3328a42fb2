"""Qwen3.5 with experts, one of them shared."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen3_vl import DELTA, EXPERTS, TOWER, make_config
from medvlm.families._qwen_vl import compute_positions, find_canvas


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    return make_config(real, "qwen3_5_moe", TOWER, {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16})


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
