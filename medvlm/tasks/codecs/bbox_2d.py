"""`[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]` in thousandths of the image: Qwen3-VL (QwenLM/Qwen3-VL,
cookbooks/2d_grounding)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.sample import Box
from medvlm.tasks.codecs._units import extent, place, snap, write_json

__all__ = ["extent", "place", "snap", "write", "write_points"]


def write(boxes: Sequence[Box], label: str) -> str:
    return write_json("bbox_2d", boxes, label)


def write_points(points: Sequence[tuple[float, float]], label: str) -> str:
    """`[{"point_2d": [x, y], "label": "..."}]`, as in the same cookbook."""
    return write_json("point_2d", points, label)
