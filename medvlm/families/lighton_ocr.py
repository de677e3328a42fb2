"""LightOnOCR: the tower of Pixtral and a small Qwen3."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._canvas import keep_shape
from medvlm.families._tiny import CHATML, TEXT, TOWER, lay_over, make_tokenizer


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import LightOnOcrProcessor, PixtralImageProcessor

    names = {
        "image_token": "<|image_pad|>",
        "image_break_token": "<|vision_pad|>",
        "image_end_token": "<|vision_end|>",
    }
    words = make_tokenizer(["<|im_start|>", "<|im_end|>", *names.values()], None, "<|im_end|>", **names)
    patch = real.vision["patch_size"] if real else 8
    images = PixtralImageProcessor(
        **(real.preprocessor if real else {"size": {"longest_edge": 64}, "patch_size": 2 * patch})
    )
    template = CHATML.replace("IMAGE", "<|image_pad|>")
    processor = LightOnOcrProcessor(images, words, patch_size=patch, spatial_merge_size=2, chat_template=template)
    tower = {"model_type": "pixtral", **TOWER, "head_dim": 16, "image_size": 64, "patch_size": 8}
    text = {"model_type": "qwen3", **TEXT, "vocab_size": len(words), "head_dim": 8}
    ids = {"image_token_id": words.convert_tokens_to_ids("<|image_pad|>")}
    return lay_over(real, {"vision_config": tower, "text_config": text, "spatial_merge_size": 2}, ids), processor


FAMILY = Family(
    tower="vision_encoder",
    connectors=("vision_projection",),
    language="language_model",
    codec="thousandths",
    canvas=keep_shape,
    tiny=make_tiny,
)
