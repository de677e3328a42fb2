"""SmolVLM: Idefics3 with a video processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._idefics3 import NAMES, find_canvas, make_config_and_processor


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    return make_config_and_processor(real, NAMES, _make_processor)


def _make_processor(sizes: Mapping[str, Any], words: Any, settings: dict[str, Any]) -> Any:
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    side = sizes["max_image_size"]
    video = SmolVLMVideoProcessor(size=side, video_sampling={"fps": 1, "max_frames": 4, "video_size": side})
    return SmolVLMProcessor(SmolVLMImageProcessor(**sizes), words, video, **settings)


FAMILY = Family(
    tower="vision_model",
    connectors=("connector",),
    language="text_model",
    codec="thousandths",
    tiles_alone=True,
    canvas=find_canvas,
    tiny=make_tiny,
)
