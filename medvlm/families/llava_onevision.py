"""LLaVA-OneVision: a single picture becomes tiles that keep its shape; several pictures become squares."""

from __future__ import annotations

from typing import Any

from medvlm.core.errors import RecipeError
from medvlm.core.families import Described, Family, Processed
from medvlm.core.geometry import Canvas, resize
from medvlm.families._canvas import fit_in_tiles, pad_to_square
from medvlm.families._tiny import CHATML, TEXT, TOWER, lay_over, make_tokenizer


def find_canvas(made: Processed) -> Canvas:
    """A single picture keeps its shape in tiles, whose padding the model removes. One of several is padded to a
    square."""
    images = made.processor.image_processor
    if made.pictures > 1:
        whole = pad_to_square(made.size)
        return whole.then(
            resize((int(whole.size[0]), int(whole.size[1])), (images.size["height"], images.size["width"]))
        )
    return fit_in_tiles(made.size, images.image_grid_pinpoints)


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    if real:
        raise RecipeError(
            f"{real.model}: the tiles of LLaVA-OneVision's processor are not known here; give the path of a folder with"
            " the model"
        )
    grid = [[32, 32], [32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]
    words = make_tokenizer(["<|im_start|>", "<|im_end|>", "<image>", "<video>"], None, "<|im_end|>")
    images = LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
    video = LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32})
    template = CHATML.replace("IMAGE", "<image>\n")
    processor = LlavaOnevisionProcessor(
        images, words, video, num_image_tokens=16, vision_feature_select_strategy="full", chat_template=template
    )
    tower = {"model_type": "siglip_vision_model", **TOWER, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    ids = {
        "image_token_index": words.convert_tokens_to_ids("<image>"),
        "video_token_index": words.convert_tokens_to_ids("<video>"),
    }
    tiny = {
        "vision_config": tower,
        "text_config": {"model_type": "qwen2", **TEXT, "vocab_size": len(words)},
        "image_grid_pinpoints": grid,
        "vision_feature_layer": -1,
    }
    return lay_over(None, tiny, ids), processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector", "image_newline"),
    language="language_model",
    codec="relative",
    canvas=find_canvas,
    tiny=make_tiny,
)
