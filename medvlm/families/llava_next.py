"""LLaVA-NeXT (1.6): a picture becomes tiles that keep its shape, and an overview; its padding is taken off again."""

from __future__ import annotations

from typing import Any

from medvlm.core.errors import RecipeError
from medvlm.core.families import Described, Family, Processed
from medvlm.core.geometry import Canvas
from medvlm.families._canvas import fit_in_tiles
from medvlm.families._tiny import TEXT, TOWER, VICUNA, lay_over, make_tokenizer

GRID = [[32, 32], [32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]


def find_canvas(made: Processed) -> Canvas:
    return fit_in_tiles(made.size, made.processor.image_processor.image_grid_pinpoints)


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    if real:
        raise RecipeError(
            f"{real.model}: the tiles of LLaVA-NeXT's processor are not known here; give the path of a folder with the"
            " model"
        )
    words = make_tokenizer(["<image>"], "<s>", "</s>")
    side = {"height": 32, "width": 32}
    images = LlavaNextImageProcessor(size={"shortest_edge": 32}, crop_size=side, image_grid_pinpoints=GRID)
    processor = LlavaNextProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=VICUNA,
        num_additional_image_tokens=1,
    )
    tiny = {
        "vision_config": {"model_type": "clip_vision_model", **TOWER, "image_size": 32, "patch_size": 8},
        "text_config": {"model_type": "llama", **TEXT, "vocab_size": len(words)},
        "image_grid_pinpoints": GRID,
        "vision_feature_layer": -2,
    }
    return lay_over(None, tiny, {"image_token_index": words.convert_tokens_to_ids("<image>")}), processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector", "image_newline"),
    language="language_model",
    codec="relative",
    canvas=find_canvas,
    tiny=make_tiny,
)
