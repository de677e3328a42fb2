"""What the generations of Qwen-VL share: pictures in patches at their own size, and positions in a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from medvlm.core.families import Described, Processed
from medvlm.core.geometry import Canvas, resize
from medvlm.core.sample import Batch
from medvlm.families._tiny import CHATML, TEXT, lay_over, make_tokenizer

PATCH = 8
VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


VIDEO = {"pixel_values_videos": "pixel_values", "video_grid_thw": "image_grid_thw"}
"""See Family.video_tensors."""


def find_canvas(made: Processed) -> Canvas:
    _, rows, columns = made.tensors["image_grid_thw"][made.number].tolist()
    patch = made.processor.image_processor.patch_size
    return resize(made.size, (rows * patch, columns * patch))


def compute_positions(plain_BT: torch.Tensor, batch: Batch, config: Any) -> torch.Tensor:
    """Positions [3, B, T]: time, row and column. Image tokens have their place in a grid (Qwen2-VL, arXiv 2409.12191,
    section 2.1), and those of a video the time of their frames (Qwen2.5-VL, arXiv 2502.13923, section 2.1.2). Tokens
    after an image continue from its largest row or column."""
    grids_N3 = batch.media.get("image_grid_thw")
    if grids_N3 is None or not len(batch.feature_rows):
        return plain_BT.expand(3, -1, -1)
    seconds_N = batch.media.get("second_per_grid_ts")
    if seconds_N is None:
        return _place(plain_BT, batch, config, grids_N3, torch.ones(len(grids_N3), device=grids_N3.device))
    return _place(
        plain_BT, batch, config, grids_N3, config.vision_config.tokens_per_second * seconds_N.view(torch.float32)
    )


def compute_positions_of_frames(plain_BT: torch.Tensor, batch: Batch, config: Any) -> torch.Tensor:
    """The same where a text with its time stands before each frame of a video, which is then like a picture."""
    grids_N3 = batch.media.get("image_grid_thw")
    if grids_N3 is None or not len(batch.feature_rows):
        return plain_BT.expand(3, -1, -1)
    frames_N3 = grids_N3.repeat_interleave(grids_N3[:, 0], 0)
    frames_N3 = torch.cat([torch.ones_like(frames_N3[:, :1]), frames_N3[:, 1:]], 1)
    return _place(plain_BT, batch, config, frames_N3, torch.ones(len(frames_N3), device=frames_N3.device))


def _place(
    plain_BT: torch.Tensor, batch: Batch, config: Any, grids_N3: torch.Tensor, interval_N: torch.Tensor
) -> torch.Tensor:
    """interval_N: float32, positions from one frame of a video to the next."""
    places = plain_BT.expand(3, -1, -1)
    merge = config.vision_config.spatial_merge_size
    frames_N, height_N, width_N = (grids_N3 // torch.tensor([1, merge, merge], device=grids_N3.device)).T
    tokens_N = frames_N * height_N * width_N
    starts_N = tokens_N.cumsum(0) - tokens_N
    picture_I = torch.searchsorted(starts_N, batch.feature_rows, right=True) - 1
    at_I, width_I = batch.feature_rows - starts_N[picture_I], width_N[picture_I]
    frame_I = at_I // (height_N * width_N)[picture_I]
    in_frame_I = at_I - frame_I * (height_N * width_N)[picture_I]
    is_image_BT = batch.ids_BT == config.image_token_id
    time_I = (frame_I * interval_N[picture_I]).long()
    within_3I = torch.stack([time_I, in_frame_I // width_I, in_frame_I % width_I])
    within = torch.zeros_like(places).masked_scatter(is_image_BT, within_3I - at_I)
    # A picture takes only as many positions as its longer side has tokens, so later tokens get smaller positions.
    fewer_I = (at_I == tokens_N[picture_I] - 1) * (torch.maximum(height_N, width_N) - tokens_N)[picture_I]
    fewer_BT = torch.zeros_like(plain_BT).masked_scatter(is_image_BT, fewer_I)
    before_BT = fewer_BT.cumsum(1) - fewer_BT
    begins_BT = torch.ones_like(is_image_BT)
    begins_BT[:, 1:] = batch.docs_BT[:, 1:] != batch.docs_BT[:, :-1]
    # The shift at the start of a token's document, from earlier documents in the row. It never increases, so cummin
    # repeats it over the document.
    of_others_BT = before_BT.masked_fill(~begins_BT, 0).cummin(1).values
    return places + within + before_BT - of_others_BT


def make_config_and_processor(
    real: Described | None,
    model_type: str,
    processor: Callable[..., Any],
    video: Callable[..., Any],
    tower: Mapping[str, Any],
    text: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[dict[str, Any], Any]:
    """See Family.tiny. processor, video: classes of transformers. tower: config of the tiny tower. text: what
    the config of the tiny language model has beside the usual."""
    from transformers import Qwen2VLImageProcessor

    words = make_tokenizer(["<|im_start|>", "<|im_end|>", *VISION], None, "<|im_end|>")
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = dict(zip(names, words.convert_tokens_to_ids(VISION), strict=True))
    small = {
        "patch_size": PATCH,
        "min_pixels": 16 * 16,
        "max_pixels": 64 * 64,
        "merge_size": 2,
        "temporal_patch_size": 2,
    }
    sizes = real.preprocessor if real else small
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    made = processor(
        Qwen2VLImageProcessor(**sizes), words, video(patch_size=sizes["patch_size"]), chat_template=template
    )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    usual = {**TEXT, "vocab_size": len(words), "rope_parameters": rope, "head_dim": 8, "tie_word_embeddings": False}
    tiny = {"vision_config": tower, "text_config": {**usual, **text}, "tie_word_embeddings": False}
    return lay_over(real, tiny, {"model_type": model_type, **ids}), made
