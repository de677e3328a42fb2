"""Idefics3: pixel-shuffled tiles of a SigLIP tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._idefics3 import find_canvas, make_config_and_processor


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    return make_config_and_processor(real, {}, _make_processor)


def _make_processor(sizes: Mapping[str, Any], words: Any, settings: dict[str, Any]) -> Any:
    from transformers import Idefics3ImageProcessor, Idefics3Processor

    return Idefics3Processor(Idefics3ImageProcessor(**sizes), words, **settings)


FAMILY = Family(
    tower="vision_model",
    connectors=("connector",),
    language="text_model",
    codec="thousandths",
    tiles_alone=True,
    canvas=find_canvas,
    tiny=make_tiny,
)
