"""GLM-4.1V: a dense language model."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._glm4v import END, make_config_and_processor
from medvlm.families._qwen_vl import compute_positions, find_canvas


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Glm4vImageProcessor, Glm4vProcessor, Glm4vVideoProcessor

    return make_config_and_processor(real, Glm4vImageProcessor, Glm4vVideoProcessor, Glm4vProcessor, {}, {})


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
