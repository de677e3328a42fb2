"""Canvases that several families share. Axes: height, width."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.families import Processed, Size
from medvlm.core.geometry import Canvas, crop, resize


def squash(made: Processed) -> Canvas:
    """The picture is stretched to the processor's size."""
    new = made.processor.image_processor.size
    return resize(made.size, (new["height"], new["width"]))


def keep_shape(made: Processed) -> Canvas:
    """The picture is resized to the size that the processor reports."""
    height, width = made.tensors["image_sizes"][made.number].tolist()
    return resize(made.size, (height, width))


def pad_to_square(size: Size) -> Canvas:
    """The picture is padded to a square around it."""
    side = max(size)
    return crop(size, -((side - size[0]) // 2), -((side - size[1]) // 2), (side, side))


def fit_in_tiles(size: Size, arrangements: Sequence[Sequence[int]]) -> Canvas:
    """The picture is resized into the arrangement of tiles (height, width) that shows most of it and keeps its shape.
    The model takes the padding off again."""
    from transformers.image_processing_utils import select_best_resolution

    (height, width), (high, wide) = size, select_best_resolution(size, arrangements)
    scale = min(high / height, wide / width)
    return resize(size, (min(high, max(1, round(height * scale))), min(wide, max(1, round(width * scale)))))


def cover_with_tiles(made: Processed) -> Canvas:
    """The picture is stretched over the arrangement of tiles with the most similar aspect ratio."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    images = made.processor.image_processor
    tile = images.size["height"], images.size["width"]
    if len(made.tensors["pixel_values"]) == made.pictures:  # each is one tile, as with crop_to_patches: false
        return resize(made.size, tile)
    columns, rows = get_optimal_tiled_canvas(made.size, tile, images.min_patches, images.max_patches)
    return resize(made.size, (tile[0] * rows, tile[1] * columns))
