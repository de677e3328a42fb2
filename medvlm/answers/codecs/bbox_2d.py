"""`[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]` in thousandths of the image: Qwen3-VL (QwenLM/Qwen3-VL,
cookbooks/2d_grounding)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from medvlm.answers.codecs.thousandths import extent, place
from medvlm.core.sample import Box

__all__ = ["extent", "place", "write"]


def write(boxes: Sequence[Box], label: str) -> str:
    return json.dumps(
        [{"bbox_2d": [round(value) for value in box], "label": label} for box in boxes], ensure_ascii=False
    )
