"""Qwen2-VL: boxes in thousandths, as JSON."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen_vl import TOWER, VIDEO, compute_positions, find_canvas, make_config_and_processor


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Qwen2VLProcessor, Qwen2VLVideoProcessor

    tower = {**TOWER, "embed_dim": 32}
    return make_config_and_processor(real, "qwen2_vl", Qwen2VLProcessor, Qwen2VLVideoProcessor, tower)


FAMILY = Family(
    tower="visual",
    connectors=("visual.merger",),
    language="language_model",
    codec="bbox_2d",
    types="mm_token_type_ids",
    position_axes=3,
    positions=compute_positions,
    video_tensors=VIDEO,
    canvas=find_canvas,
    tiny=make_tiny,
)
