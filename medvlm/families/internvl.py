"""InternVL in transformers' own format: a picture becomes up to twelve tiles and an overview."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._canvas import cover_with_tiles
from medvlm.families._tiny import CHATML, TEXT, TOWER, lay_over, make_tokenizer


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = make_tokenizer(["<|im_start|>", "<|im_end|>", *names.values()], None, "<|im_end|>", **names)
    sizes = (
        real.preprocessor
        if real
        else {"size": {"height": 32, "width": 32}, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}
    )
    tokens = real.config["image_seq_length"] if real else 4
    video = InternVLVideoProcessor(size=sizes["size"])
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(**sizes),
        words,
        video,
        image_seq_length=tokens,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    text = {"model_type": "qwen2", **TEXT, "vocab_size": len(words)}
    tiny = {
        "vision_config": {**TOWER, "image_size": [32, 32], "patch_size": [8, 8]},
        "text_config": text,
        "image_seq_length": 4,
        "downsample_ratio": 0.5,
    }
    return lay_over(real, tiny, {"image_token_id": words.convert_tokens_to_ids("<IMG_CONTEXT>")}), processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="tags",
    canvas=cover_with_tiles,
    tiny=make_tiny,
)
