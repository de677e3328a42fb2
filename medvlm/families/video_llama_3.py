"""VideoLLaMA 3: a tower with rotary positions for pictures at their own size, and Qwen2.5."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._qwen_vl import PATCH, find_canvas
from medvlm.families._tiny import CHATML, TEXT, lay_over, make_tokenizer
from medvlm.families._tiny import TOWER as USUAL

MEDIA = ["<image>", "<video>"]


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import VideoLlama3ImageProcessor, VideoLlama3Processor, VideoLlama3VideoProcessor

    names = {"image_token": "<image>", "video_token": "<video>"}
    words = make_tokenizer(["<|im_start|>", "<|im_end|>", *MEDIA], None, "<|im_end|>", **names)
    ids = dict(zip(("image_token_id", "video_token_id"), words.convert_tokens_to_ids(MEDIA), strict=True))
    small = {"patch_size": PATCH, "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, "merge_size": 1}
    images = VideoLlama3ImageProcessor(**(real.preprocessor if real else small))
    videos = VideoLlama3VideoProcessor(patch_size=images.patch_size)
    processor = VideoLlama3Processor(images, words, videos, chat_template=CHATML.replace("IMAGE", "<image>\n"))
    text = {"model_type": "qwen2", **TEXT, "vocab_size": len(words)}
    tiny = {"vision_config": {**USUAL, "patch_size": PATCH}, "text_config": text}
    return lay_over(real, tiny, ids), processor


FAMILY = Family(
    tower="vision_model",
    connectors=("projector",),
    language="language_model",
    codec="thousandths",
    canvas=find_canvas,
    tiny=make_tiny,
)
