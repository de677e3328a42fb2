"""LLaVA 1.5 and similar models: CLIP's preprocessing, and one sequence of patches."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family, Processed
from medvlm.core.geometry import Canvas, crop, resize
from medvlm.families._canvas import keep_shape, pad_to_square
from medvlm.families._tiny import TEXT, TOWER, VICUNA, lay_over, make_tokenizer


def find_canvas(made: Processed) -> Canvas:
    """The short side is resized and the center cropped. With `do_pad`, the picture is first padded to a square. With
    the tower of Pixtral, it keeps its shape."""
    if "image_sizes" in made.tensors:
        return keep_shape(made)
    images, size = made.processor.image_processor, made.size
    whole = pad_to_square(size) if getattr(images, "do_pad", False) else resize(size, size)
    new, (height, width) = images.size, (int(whole.size[0]), int(whole.size[1]))
    if edge := new.get("shortest_edge"):
        short, long = min(height, width), max(height, width)
        scaled = edge, int(edge * long / short)
        resized = scaled if height <= width else scaled[::-1]
    else:
        resized = new["height"], new["width"]
    whole = whole.then(resize((height, width), resized))
    if images.do_center_crop:
        cut = images.crop_size["height"], images.crop_size["width"]
        whole = whole.then(crop(resized, int((resized[0] - cut[0]) / 2), int((resized[1] - cut[1]) / 2), cut))
    return whole


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import CLIPImageProcessor, LlavaProcessor

    words = make_tokenizer(["<image>"], "<s>", "</s>")
    images = CLIPImageProcessor(
        **(real.preprocessor if real else {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}})
    )
    patch = real.vision["patch_size"] if real else 8
    processor = LlavaProcessor(
        images,
        words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        chat_template=VICUNA,
        num_additional_image_tokens=1,
    )
    tower = {"model_type": "clip_vision_model", **TOWER, "image_size": 32, "patch_size": 8}
    tiny = {
        "vision_config": tower,
        "text_config": {"model_type": "llama", **TEXT, "vocab_size": len(words)},
        "vision_feature_layer": -2,
        "image_seq_length": 16,
    }
    return lay_over(real, tiny, {"image_token_index": words.convert_tokens_to_ids("<image>")}), processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="relative",
    canvas=find_canvas,
    tiny=make_tiny,
)
