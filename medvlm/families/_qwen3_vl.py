"""What Qwen3-VL and Qwen3.5 share, with and without experts: one processor, and a tower with learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.families import Described
from medvlm.families._qwen_vl import TOWER as EARLIER
from medvlm.families._qwen_vl import make_config_and_processor

TOWER = {**EARLIER, "intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DEEP = {"deepstack_visual_indexes": [0, 1]}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [1, 1, 2],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
}
"""A layer of gated delta-net before one of attention (Qwen3.5)."""


def make_config(
    real: Described | None, model_type: str, tower: Mapping[str, Any], text: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """See Family.tiny."""
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor

    return make_config_and_processor(real, model_type, Qwen3VLProcessor, Qwen3VLVideoProcessor, tower, text)
