"""Published models that differ from the tiny model of their family: other language models, experts, masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from medvlm.core.families import family_of
from medvlm.families._tiny import TEXT
from medvlm.preflight.rehearsal.ready import build_config

SMALL = {**TEXT, "head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "n_routed_experts": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "internvl3_5": ("internvl", {"model_type": "qwen3", **SMALL}),
    "internvl3_5_moe": ("internvl", {"model_type": "qwen3_moe", **SMALL, **EXPERTS, "num_experts": 4}),
    "internvl3_5_gpt_oss": (
        "internvl",
        {
            "model_type": "gpt_oss",
            **SMALL,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "mistral_small_4": ("mistral3", {"model_type": "mistral4", **TEXT, **LATENT, **EXPERTS}),
    "glm46v_flash": ("glm46v", {"model_type": "glm4v_text"}),
    "gemma4_26b": (
        "gemma4",
        {
            "use_bidirectional_attention": "vision",
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
    ),
}
"""Name -> family, and how the config of its language model differs. Another `model_type` replaces it."""

FAST = ("qwen3_vl", "gemma3", "idefics3", "paligemma")


def mark_slow(names: Iterable[str]) -> list[Any]:
    """Parameters of a test: all but a few families are slow."""
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


def make_variant(name: str) -> tuple[Any, Any]:
    """Config and processor."""
    family, changes = VARIANTS[name]
    config, processor = family_of(family).tiny(None)
    text = config["text_config"]
    kept = text if changes.get("model_type") in (None, "glm4v_text") else {"vocab_size": text["vocab_size"]}
    return build_config(family, {**config, "text_config": {**kept, **changes}}), processor
