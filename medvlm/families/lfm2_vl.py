"""LFM2-VL and LFM2.5-VL: short convolutions beside attention, and tiles of large pictures with an overview."""

from __future__ import annotations

import re
from typing import Any

from medvlm.core.families import Described, Family, Processed
from medvlm.core.geometry import Canvas, resize
from medvlm.families._tiny import CHATML, TEXT, TOWER, lay_over, make_tokenizer

NAMES = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}
SMALL = {
    "encoder_patch_size": 8,
    "tile_size": 32,
    "min_image_tokens": 4,
    "max_image_tokens": 16,
    "min_tiles": 2,
    "max_tiles": 4,
    "max_pixels_tolerance": 1.0,
}


def find_canvas(made: Processed) -> Canvas:
    """Tiles cover a picture that is stretched over them. A smaller one is a single tile of its own shape."""
    images = made.processor.image_processor
    tiles = [(int(r), int(c)) for r, c in re.findall(r"<\|img_row_(\d+)_col_(\d+)\|>", made.expansion)]
    if tiles:
        rows, columns = (max(numbers) for numbers in zip(*tiles, strict=True))
        return resize(made.size, (images.tile_size * rows, images.tile_size * columns))
    first = sum(max(1, text.count("<|img_row_") + text.count("<|img_thumbnail|>")) for text in made.before)
    rows, columns = made.tensors["spatial_shapes"][first].tolist()
    return resize(made.size, (rows * images.encoder_patch_size, columns * images.encoder_patch_size))


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Lfm2VlImageProcessor, Lfm2VlProcessor

    tiles = [f"<|img_row_{r}_col_{c}|>" for r in range(1, 11) for c in range(1, 11)]
    words = make_tokenizer(
        ["<|im_start|>", "<|im_end|>", *NAMES.values(), *tiles], "<|startoftext|>", "<|im_end|>", **NAMES
    )
    template = "{{ bos_token }}" + CHATML.replace("IMAGE", "<image>")
    images = Lfm2VlImageProcessor(**(real.preprocessor if real else SMALL))
    tower = {
        **TOWER,
        "model_type": "siglip2_vision_model",
        "patch_size": 8,
        "num_patches": 16,
        "vision_use_head": False,
    }
    text = {**TEXT, "vocab_size": len(words), "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
    ids = {"image_token_id": words.convert_tokens_to_ids("<image>")}
    tiny = {"vision_config": tower, "text_config": text, "projector_hidden_size": 48}
    return lay_over(real, tiny, ids), Lfm2VlProcessor(images, words, chat_template=template)


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="relative",
    shares_rows=False,
    canvas=find_canvas,
    tiny=make_tiny,
)
