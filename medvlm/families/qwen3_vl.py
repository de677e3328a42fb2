"""Qwen3-VL: features of several tower layers enter the language model."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen3_vl import DEEP, TOWER, make_config
from medvlm.families._qwen_vl import VIDEO, compute_positions_of_frames, find_canvas


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    return make_config(real, "qwen3_vl", {**TOWER, **DEEP}, {})


FAMILY = Family(
    tower="visual",
    connectors=("visual.merger", "visual.deepstack_merger_list"),
    language="language_model",
    codec="bbox_2d",
    types="mm_token_type_ids",
    position_axes=3,
    positions=compute_positions_of_frames,
    video_tensors=VIDEO,
    canvas=find_canvas,
    tiny=make_tiny,
)
