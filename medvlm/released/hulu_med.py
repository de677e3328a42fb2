"""Hulu-Med (arXiv 2510.08668; ZJUI-AI4H/Hulu-Med), whose classes are those of VideoLLaMA 3 (arXiv 2501.13106;
DAMO-NLP-SG/VideoLLaMA3, videollama3/model, at 748195e): a SigLIP with rotary positions, two linear layers, and Qwen 2.5
or 3.

Images keep all of their tokens here. The release halves the grid of videos, and drops tokens of frames that are alike.
"""

from __future__ import annotations

from medvlm.core.layouts import KeyRule, Layout

# Checkpoints of its training code have the wrapper of the encoder in the name, published ones do not.
TOWER = r"model\.vision_encoder\.(?:vision_encoder\.)?"

LAYOUTS = tuple(
    Layout(
        title="Hulu-Med",
        marks=(f"model.vision_encoder.{wrapper}post_layernorm.weight", "model.mm_projector.readout.0.weight"),
        rules=(
            KeyRule(TOWER + "(.+)", r"encoders.{encoder}.tower.\1"),
            KeyRule(r"model\.mm_projector\.readout\.0\.(.+)", r"connectors.{encoder}.linear_1.\1"),
            KeyRule(r"model\.mm_projector\.readout\.2\.(.+)", r"connectors.{encoder}.linear_2.\1"),
            KeyRule(r"(model\.(embed_tokens|layers|norm)\..+|lm_head\.weight)", r"language.\1"),
        ),
        left_out={"*.rotary_emb.inv_freq": "computed"},
        recipe="base/hulu_med.yaml",
    )
    for wrapper in ("", "vision_encoder.")
)
