"""Reads the prompt encoder and the mask decoder of a published SAM, in the layout of transformers or in that of
segment-anything (facebookresearch/segment-anything, in which MedSAM is published too)."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from medvlm.core import published
from medvlm.core.errors import CheckpointError
from medvlm.core.weight_files import list_files
from medvlm.core.weights import is_on_meta

PARTS = ("prompt_encoder.", "mask_decoder.", "no_memory_embedding")
"""The last one is of SAM 2 and SAM 3."""
OF_SAM_3 = "tracker_model."
"""How the names of the part of SAM 3 begin that boxes, points and masks prompt."""
SHARED, FREQUENCIES = (
    f"{part}.positional_embedding" for part in ("shared_image_embedding", "prompt_encoder.shared_embedding")
)
FEED_FORWARD = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}
ORIGINAL = (
    (r"\bnorm(\d|_final_attn)\b", r"layer_norm\1"),
    (r"output_upscaling\.0\b", "upscale_conv1"),
    (r"output_upscaling\.1\b", "upscale_layer_norm"),
    (r"output_upscaling\.3\b", "upscale_conv2"),
    (r"mask_downscaling\.0\b", "mask_embed.conv1"),
    (r"mask_downscaling\.1\b", "mask_embed.layer_norm1"),
    (r"mask_downscaling\.3\b", "mask_embed.conv2"),
    (r"mask_downscaling\.4\b", "mask_embed.layer_norm2"),
    (r"mask_downscaling\.6\b", "mask_embed.conv3"),
    (r"point_embeddings\b", "point_embed"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
)
"""Names of segment-anything -> names of transformers."""


def read_published(module: nn.Module, model: str, weights: str) -> None:
    """Loads these parts into a module that has them under these names. On the meta device nothing is read. Raises
    CheckpointError for a key that is missing or of another shape, and for a file that cannot be read."""
    own = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(PARTS)}
    fresh = [name for name in module.state_dict() if name not in own]
    if is_on_meta():
        return published.mark(module, fresh)
    stored = _read(model, weights)
    if any(name.startswith(OF_SAM_3) for name in stored):
        stored = {name.removeprefix(OF_SAM_3): tensor for name, tensor in stored.items() if name.startswith(OF_SAM_3)}
    if SHARED in stored:  # transformers stores the frequencies once, for both parts that have them
        stored.setdefault(FREQUENCIES, stored[SHARED])
    if any(".output_upscaling." in name for name in stored):
        stored = {rename(name): tensor for name, tensor in stored.items()}
    where = f"model.decoders: {'model' if model else 'weights'}"
    for name, tensor in own.items():
        if name not in stored or stored[name].shape != tensor.shape:
            found = list(stored[name].shape) if name in stored else "nothing"
            raise CheckpointError(
                f"{where}: expected {name} of shape {list(tensor.shape)}, found {found}; give a SAM or MedSAM of the"
                " width, layers, heads and mlp of this decoder"
            )
    module.load_state_dict({name: stored[name] for name in own}, strict=False)
    published.mark(module, fresh)


def rename(name: str) -> str:
    """The name in transformers of a tensor of segment-anything."""
    if "iou_prediction_head." in name or "output_hypernetworks_mlps." in name:
        name = re.sub(r"\.layers\.(\d)\.", lambda found: f".{FEED_FORWARD[found[1]]}.", name)
    for pattern, ours in ORIGINAL:
        name = re.sub(pattern, ours, name)
    return name


def _read(model: str, weights: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if weights.endswith(".pth"):
            found: dict[str, torch.Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
            return found
        files = [Path(weights)] if weights else list_files(model)
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, EOFError, LookupError, RuntimeError, ValueError, UnpicklingError, SafetensorError) as reason:
        where = f"weights: {Path(weights).name}" if weights else f"model: {model}"
        raise CheckpointError(f"model.decoders: {where} cannot be read ({reason})") from None
