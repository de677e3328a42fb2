"""What a ready model reads of its pictures, taken apart into those that its tower computes independently.

A family packs pictures in one of four ways: along the first axis (LLaVA, Gemma 3, InternVL's tiles), as patches of all
pictures in one row, with the grid of each (Qwen-VL, GLM-4V), as tiles along a second axis (Idefics3), or with several
pictures of a sample that are tiled otherwise than a single one (LLaVA-OneVision).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from medvlm.core.padding import pad_and_join

PIXELS, GRIDS, NUMBERS = "pixel_values", "image_grid_thw", "batch_num_images"
Pieces = list[dict[str, torch.Tensor]]


def split_pictures(media: Mapping[str, torch.Tensor], tiles_alone: bool) -> Pieces:
    """Arguments of the family's get_image_features, for each picture, tile, video or sample by itself, in the order of
    their features. tiles_alone: whether media are [samples, tiles, ...] and each tile is computed by itself."""
    if not media:
        return []
    if tiles_alone:
        is_real_ST = media[PIXELS].flatten(2).any(-1)  # samples with fewer tiles are padded with tiles of zeros
        media = {name: value[is_real_ST][:, None] for name, value in media.items()}
    ones = [1] * len(media[next(name for name in (GRIDS, NUMBERS, PIXELS) if name in media)])
    rows = dict.fromkeys(media, ones)
    if GRIDS in media:
        rows[PIXELS] = media[GRIDS].prod(1).tolist()
    elif NUMBERS in media:
        rows |= {name: media[NUMBERS].tolist() for name in media if name != NUMBERS}
    parts = [value.split(rows[name]) for name, value in media.items()]
    return [dict(zip(media, each, strict=True)) for each in zip(*parts, strict=True)]


def join_pictures(pieces: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: pad_and_join([piece[name] for piece in pieces]) for name in pieces[0]}


def list_features(features: Any, pieces: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
    """The features of each piece [tokens, channels], with those of the layers that enter the language model deeper
    beside them. features: of get_image_features for all pieces."""
    layers = (features.pooler_output, *(getattr(features, "deepstack_features", None) or ()))
    pictures = [torch.cat([each.flatten(0, -2) for each in of_layers], -1) for of_layers in zip(*layers, strict=True)]
    counts = [int(piece[NUMBERS]) if NUMBERS in piece else 1 for piece in pieces]
    assert sum(counts) == len(pictures), (counts, len(pictures))
    return [torch.cat(pictures[sum(counts[:i]) :][:count]) for i, count in enumerate(counts)]


def restore_features(features: Any, found: Sequence[torch.Tensor]) -> Any:
    """The same structure with other pieces. features: of get_image_features, for any pictures."""
    deep = getattr(features, "deepstack_features", None) or ()
    layers = [piece.chunk(1 + len(deep), -1) for piece in found]
    first: Any = [each[0] for each in layers]
    if first and isinstance(features.pooler_output, torch.Tensor):
        first = torch.stack(first)
    changed: dict[str, Any] = {"pooler_output": first}
    if deep:
        changed["deepstack_features"] = [[each[1 + i] for each in layers] for i in range(len(deep))]
    return replace(features, **changed)


def place_features(features: Any, rows: torch.Tensor, dtype: torch.dtype) -> Any:
    """The features in the order of the placeholders, in the structure that the family's forward unpacks."""

    def gather(stack: Any) -> Any:
        flat = torch.cat([f.flatten(0, -2) for f in stack])[rows].to(dtype)
        return flat if isinstance(stack, torch.Tensor) else (flat,)

    changed: dict[str, Any] = {"pooler_output": gather(features.pooler_output)}
    if deep := getattr(features, "deepstack_features", None):
        changed["deepstack_features"] = [gather(layer) for layer in deep]
    return replace(features, **changed)


def list_tensors(features: Any) -> list[torch.Tensor]:
    """The features of all pictures and layers."""
    deep = getattr(features, "deepstack_features", None) or []
    return [t for stack in (features.pooler_output, *deep) for t in stack]
