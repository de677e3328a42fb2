"""What GLM-4.1V, GLM-4.5V and GLM-4.6V share: pictures at their own size, positions in a grid, boxes in thousandths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.families import Described
from medvlm.families._qwen_vl import PATCH
from medvlm.families._tiny import TEXT, lay_over, make_tokenizer

TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}"
    "<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
END = "<|user|>"
"""The templates write nothing behind an answer. It ends where the next question begins."""
MEDIA = ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
KEYS = ("image_token", "video_token", "image_start_token", "image_end_token", "video_start_token", "video_end_token")
TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "image_size": 64,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
    "intermediate_size": 48,
}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
NARROW = {**TEXT, "num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": ROPE}
EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "head_dim": 16,
}


def make_config_and_processor(
    real: Described | None, images: Any, videos: Any, processor: Any, text: Mapping[str, Any], tower: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """See Family.tiny. images, videos, processor: classes of transformers."""
    turns = ["<|user|>", "<|assistant|>", "<|system|>", "[gMASK]", "<sop>"]
    words = make_tokenizer([*turns, *MEDIA], None, "<|endoftext|>")
    ids = {f"{key}_id": words.convert_tokens_to_ids(word) for key, word in zip(KEYS, MEDIA, strict=True)}
    small = {"patch_size": PATCH, "size": {"shortest_edge": 16 * 16 * 2, "longest_edge": 64 * 64 * 2}}
    sizes = real.preprocessor if real else small
    made = processor(images(**sizes), words, videos(**sizes), chat_template=TEMPLATE)
    ends = words.convert_tokens_to_ids(["<|endoftext|>", END])
    tiny = {
        "vision_config": {**TOWER, **tower},
        "text_config": {**NARROW, **text, "vocab_size": len(words), "pad_token_id": words.pad_token_id},
    }
    return lay_over(real, tiny, {**ids, "eos_token_id": ends}), made
