"""Qwen3-VL: features of several tower layers enter the language model."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen_vl import TOWER, compute_positions, find_canvas, make_config_and_processor


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor

    tower = {
        **TOWER,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    return make_config_and_processor(real, "qwen3_vl", Qwen3VLProcessor, Qwen3VLVideoProcessor, tower)


FAMILY = Family(
    tower="visual",
    connectors=(
        "visual.merger",
        "visual.deepstack_merger_list",
    ),
    language="language_model",
    codec="bbox_2d",
    types="mm_token_type_ids",
    position_axes=3,
    positions=compute_positions,
    canvas=find_canvas,
    tiny=make_tiny,
)
