"""Which programs that serve models take which export target."""

from __future__ import annotations

TAKES = {
    "vllm": ("llava", "idefics3", "clip", "siglip", "adapter"),
    "gguf": ("idefics3",),
}
"""vllm: docs/models/supported_models.md of 2026. gguf: MMPROJ_MODEL_MAP in conversion/__init__.py of llama.cpp, 2026,
and conversion/llava.py, which takes LLaVA with a Pixtral tower alone."""
REMEDY = {
    "gguf": (
        "the layout of Idefics3 is converted: connector: {kind: pixel_shuffle, layers: 1} behind a siglip_vision_model"
        " with layer: normed, and its words around images"
    ),
    "vllm": "stock, clip and siglip are, where they hold the model",
}
UNKNOWN = ("native",)
"""Ready models: it depends on the family, which is not looked up here."""


def not_taken(server: str, kind: str) -> str | None:
    """Why the program does not load that target, with what would do, or None."""
    if kind in TAKES[server] or kind in UNKNOWN:
        return None
    return f"{server} does not take {kind}; {REMEDY[server]}"
