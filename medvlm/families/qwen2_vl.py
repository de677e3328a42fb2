"""Qwen2-VL: boxes in thousandths, as JSON."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen_vl import TOWER, canvas, make_tiny, positions


def tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Qwen2VLProcessor, Qwen2VLVideoProcessor

    tower = {**TOWER, "embed_dim": 32}
    return make_tiny(real, "qwen2_vl", Qwen2VLProcessor, Qwen2VLVideoProcessor, tower)


FAMILY = Family(
    tower="visual",
    connectors=("visual.merger",),
    language="language_model",
    codec="bbox_2d",
    types="mm_token_type_ids",
    position_axes=3,
    positions=positions,
    canvas=canvas,
    tiny=tiny,
)
