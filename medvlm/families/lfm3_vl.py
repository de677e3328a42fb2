"""LFM3-VL: short convolutions beside attention, and pictures in patches at their own size."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen_vl import PATCH, VISION, find_canvas
from medvlm.families._tiny import CHATML, TEXT, lay_over, make_tokenizer

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "patch_size": PATCH,
    "layer_types": ["conv", "full_attention"],
}


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Lfm3VlProcessor, Qwen2VLImageProcessor, Qwen3VLVideoProcessor

    words = make_tokenizer(["<|im_start|>", "<|im_end|>", *VISION], "<|startoftext|>", "<|im_end|>")
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = dict(zip(names, words.convert_tokens_to_ids(VISION), strict=True))
    small = {"patch_size": PATCH, "min_pixels": 16 * 16, "max_pixels": 64 * 64, "merge_size": 2}
    sizes = real.preprocessor if real else small
    template = "{{ bos_token }}" + CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    videos = Qwen3VLVideoProcessor(patch_size=sizes["patch_size"])
    processor = Lfm3VlProcessor(Qwen2VLImageProcessor(**sizes), words, videos, chat_template=template)
    text = {
        **TEXT,
        "vocab_size": len(words),
        "head_dim": 8,
        "num_hidden_layers": 3,
        "layer_types": ["conv", "sliding_attention", "full_attention"],
        "sliding_window": 16,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    tiny = {"vision_config": TOWER, "text_config": text, "projector_hidden_size": 48}
    return lay_over(real, tiny, ids), processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="relative",
    shares_rows=False,
    canvas=find_canvas,
    tiny=make_tiny,
)
