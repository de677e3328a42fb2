"""Qwen2.5-VL: window attention in the tower, and boxes in pixels of the canvas."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen_vl import TOWER, VIDEO, compute_positions, find_canvas, make_config_and_processor


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

    tower = {**TOWER, "intermediate_size": 48, "out_hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1]}
    return make_config_and_processor(real, "qwen2_5_vl", Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, tower)


FAMILY = Family(
    tower="visual",
    connectors=("visual.merger",),
    language="language_model",
    codec="bbox_2d_pixels",
    types="mm_token_type_ids",
    position_axes=3,
    positions=compute_positions,
    video_tensors={**VIDEO, "second_per_grid_ts": "second_per_grid_ts"},
    of_positions=("second_per_grid_ts",),
    canvas=find_canvas,
    tiny=make_tiny,
)
