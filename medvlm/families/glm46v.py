"""GLM-4.6V, with experts (106B) or without (Flash, 9B)."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._glm4v import END, EXPERTS, make_config_and_processor
from medvlm.families._qwen_vl import compute_positions, find_canvas


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Glm46VImageProcessor, Glm46VProcessor, Glm46VVideoProcessor

    return make_config_and_processor(
        real,
        Glm46VImageProcessor,
        Glm46VVideoProcessor,
        Glm46VProcessor,
        {"model_type": "glm4v_moe_text", **EXPERTS},
        {"model_type": "glm4v_moe_vision"},
    )


FAMILY = Family(
    tower="visual",
    connectors=("visual.downsample", "visual.merger"),
    language="language_model",
    codec="thousandths",
    types="mm_token_type_ids",
    position_axes=3,
    positions=compute_positions,
    end=END,
    canvas=find_canvas,
    tiny=make_tiny,
)
