"""M3D-LaMed (arXiv 2404.00578; BAAI-DCAI/M3D, LaMed/src/model, at ac364a9): a ViT of MONAI over volumes, pooling of its
tokens, and Llama 2 or Phi-3.

The release flattens each patch and multiplies it by a matrix; ours is the same product written as a convolution.
"""

from __future__ import annotations

import torch

from medvlm.core.layouts import KeyRule, Layout

TOWER = r"model\.vision_tower\.vision_tower\."


def to_convolution(weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """[width, depth * height * width * channels] -> [width, channels, depth, height, width]."""
    if weight.numel() != shape.numel():
        return weight
    out, channels, *sides = shape
    return weight.reshape(out, *sides, channels).movedim(-1, 1).contiguous()


LAYOUTS = (
    Layout(
        title="M3D-LaMed",
        marks=(
            "model.vision_tower.vision_tower.patch_embedding.patch_embeddings.1.weight",
            "model.mm_projector.projector.0.weight",
        ),
        rules=(
            KeyRule(
                TOWER + r"patch_embedding\.patch_embeddings\.1\.weight",
                "encoders.{encoder}.tower.patch_embedding.patch_embeddings.weight",
                to_convolution,
            ),
            KeyRule(
                TOWER + r"patch_embedding\.patch_embeddings\.1\.bias",
                "encoders.{encoder}.tower.patch_embedding.patch_embeddings.bias",
            ),
            KeyRule(TOWER + "(.+)", r"encoders.{encoder}.tower.\1"),
            KeyRule(r"model\.mm_projector\.projector\.(.+)", r"connectors.{encoder}.project.\1"),
            KeyRule(r"(model\.(embed_tokens|layers|norm)\..+|lm_head\.weight)", r"language.\1"),
        ),
        left_out={
            "model.seg_module.*": "the decoder of masks (SegVol)",
            "model.seg_projector.*": "the prompts of the decoder of masks",
            "*.rotary_emb.inv_freq": "computed",
        },
        # MONAI has had this layer in every block since, and uses it with cross-attention only.
        keeps=("encoders.*.tower.blocks.*.norm_cross_attn.*",),
        recipe="base/m3d_lamed.yaml",
    ),
)
