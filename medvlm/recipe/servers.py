"""Which serving programs load an export target. The targets say which; this file has the remedy for each program.

vllm: docs/models/supported_models.md of 2026. gguf: MMPROJ_MODEL_MAP in conversion/__init__.py of llama.cpp, 2026, and
conversion/llava.py, which takes LLaVA with a Pixtral tower alone.
"""

from __future__ import annotations

from medvlm.core.config import component

REMEDY = {
    "gguf": (
        "it converts the layout of Idefics3: connector: {kind: pixel_shuffle, layers: 1} behind a siglip_vision_model"
        " with layer: normed, and Idefics3's words around images"
    ),
    "vllm": "it loads stock, clip and siglip, if they can hold the model",
}


def explain_refusal(server: str, kind: str) -> str | None:
    """Why the program does not load that target, with a remedy, or None if it does."""
    servers = component("export.targets", kind).HOLDS.servers
    return None if servers is None or server in servers else f"{server} cannot load {kind}; {REMEDY[server]}"
