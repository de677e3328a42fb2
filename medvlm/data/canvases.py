"""Where a stored picture lies on what a ready model perceives, from its family's processor: resized, padded, cropped,
tiled.

Tiles of a picture and its small overview show the same whole: the canvas is that whole. Axes: height, width.
Written for the image processors of transformers 5.24.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from medvlm.core.geometry import Canvas, crop, resize

Size = tuple[int, int]


def canvas_of(
    model_type: str, processor: Any, size: Size, tensors: Mapping[str, Any], expansion: str, pictures: int
) -> Canvas:
    """Of the first picture of a sample. size: of the stored picture. tensors, expansion: what the processor made of it.
    pictures: how many the sample has."""
    return _CANVAS[model_type](processor, size, tensors, expansion, pictures)


def _squash(processor: Any, size: Size, tensors: Mapping[str, Any], expansion: str, pictures: int) -> Canvas:
    new = processor.image_processor.size
    return resize(size, (new["height"], new["width"]))


def _patch_grid(processor: Any, size: Size, tensors: Mapping[str, Any], expansion: str, pictures: int) -> Canvas:
    _, rows, columns = tensors["image_grid_thw"][0].tolist()
    patch = processor.image_processor.patch_size
    return resize(size, (rows * patch, columns * patch))


def _tiles_of_best_shape(
    processor: Any, size: Size, tensors: Mapping[str, Any], expansion: str, pictures: int
) -> Canvas:
    """InternVL: stretched over the arrangement of tiles that is nearest in shape."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    images = processor.image_processor
    tile = images.size["height"], images.size["width"]
    if len(tensors["pixel_values"]) == pictures:  # each is one tile, as with crop_to_patches: false
        return resize(size, tile)
    columns, rows = get_optimal_tiled_canvas(size, tile, images.min_patches, images.max_patches)
    return resize(size, (tile[0] * rows, tile[1] * columns))


def _short_side_and_centre(
    processor: Any, size: Size, tensors: Mapping[str, Any], expansion: str, pictures: int
) -> Canvas:
    """LLaVA: CLIP's processing, or with `do_pad` a square around the picture first."""
    images = processor.image_processor
    canvas = _square(size) if getattr(images, "do_pad", False) else resize(size, size)
    new, (height, width) = images.size, (int(canvas.size[0]), int(canvas.size[1]))
    if edge := new.get("shortest_edge"):
        short, long = min(height, width), max(height, width)
        scaled = edge, int(edge * long / short)
        resized = scaled if height <= width else scaled[::-1]
    else:
        resized = new["height"], new["width"]
    canvas = canvas.then(resize((height, width), resized))
    if images.do_center_crop:
        cut = images.crop_size["height"], images.crop_size["width"]
        canvas = canvas.then(crop(resized, int((resized[0] - cut[0]) / 2), int((resized[1] - cut[1]) / 2), cut))
    return canvas


def _best_pinpoint(processor: Any, size: Size, tensors: Mapping[str, Any], expansion: str, pictures: int) -> Canvas:
    """LLaVA-OneVision: alone, a picture keeps its shape in tiles whose padding the model takes off; one of several is
    padded to a square."""
    from transformers.image_processing_utils import select_best_resolution

    images = processor.image_processor
    if pictures > 1:
        square = _square(size)
        return square.then(
            resize((int(square.size[0]), int(square.size[1])), (images.size["height"], images.size["width"]))
        )
    (height, width), (high, wide) = size, select_best_resolution(size, images.image_grid_pinpoints)
    scale = min(high / height, wide / width)
    return resize(size, (min(high, max(1, round(height * scale))), min(wide, max(1, round(width * scale)))))


def _numbered_tiles(processor: Any, size: Size, tensors: Mapping[str, Any], expansion: str, pictures: int) -> Canvas:
    """Idefics3: the tiles' rows and columns stand in the text."""
    tile = processor.image_processor.max_image_size["longest_edge"]
    places = [(int(row), int(column)) for row, column in re.findall(r"<row_(\d+)_col_(\d+)>", expansion)] or [(1, 1)]
    return resize(size, (tile * max(r for r, _ in places), tile * max(c for _, c in places)))


def _stated_size(processor: Any, size: Size, tensors: Mapping[str, Any], expansion: str, pictures: int) -> Canvas:
    height, width = tensors["image_sizes"][0].tolist()
    return resize(size, (height, width))


def _square(size: Size) -> Canvas:
    side = max(size)
    return crop(size, -((side - size[0]) // 2), -((side - size[1]) // 2), (side, side))


_CANVAS: dict[str, Callable[[Any, Size, Mapping[str, Any], str, int], Canvas]] = {
    "qwen2_vl": _patch_grid,
    "qwen2_5_vl": _patch_grid,
    "qwen3_vl": _patch_grid,
    "gemma3": _squash,
    "internvl": _tiles_of_best_shape,
    "llava": _short_side_and_centre,
    "llava_onevision": _best_pinpoint,
    "idefics3": _numbered_tiles,
    "smolvlm": _numbered_tiles,
    "paligemma": _squash,
    "mistral3": _stated_size,
}
