"""Which programs that serve models take an export target: the targets say it, here is what would do instead.

vllm: docs/models/supported_models.md of 2026. gguf: MMPROJ_MODEL_MAP in conversion/__init__.py of llama.cpp, 2026, and
conversion/llava.py, which takes LLaVA with a Pixtral tower alone.
"""

from __future__ import annotations

from medvlm.core.config import component

REMEDY = {
    "gguf": (
        "the layout of Idefics3 is converted: connector: {kind: pixel_shuffle, layers: 1} behind a siglip_vision_model"
        " with layer: normed, and its words around images"
    ),
    "vllm": "stock, clip and siglip are, where they hold the model",
}


def not_taken(server: str, kind: str) -> str | None:
    """Why the program does not load that target, with what would do, or None."""
    servers = component("export.targets", kind).HOLDS.servers
    return None if servers is None or server in servers else f"{server} does not take {kind}; {REMEDY[server]}"
