"""`[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]` in thousandths of the image: Qwen3-VL (QwenLM/Qwen3-VL,
cookbooks/2d_grounding)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.sample import Box
from medvlm.tasks.codecs._units import extent, place, write_json

__all__ = ["extent", "place", "write"]


def write(boxes: Sequence[Box], label: str) -> str:
    return write_json("bbox_2d", boxes, label)
