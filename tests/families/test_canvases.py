"""Where a box lies for a ready model, found in what the families' real processors give for a picture with a bright box
in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.config import kinds
from medvlm.core.families import Processed, family_of
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Box
from medvlm.preflight.rehearsal.ready import make_config
from medvlm.tasks._writing import Writing
from medvlm.tasks.boxes import parse
from tests.families.variants import mark_slow

PLACED: list[tuple[tuple[int, int], Box]] = [
    ((61, 97), (20, 10, 60, 40)),
    ((131, 64), (8, 70, 40, 120)),
    ((45, 45), (10, 20, 30, 44)),
    ((37, 150), (60, 5, 95, 30)),
]
"""(height, width) and a box on it: odd sizes, upright, square, wide."""
GREY, BRIGHT = 60, 255


@pytest.fixture(scope="module", params=mark_slow(kinds("families")))
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="its processor needs num2words")
    return request.param, make_config(request.param)[1]


def seen(
    name: str, processor: Any, size: tuple[int, int], box: Box, pictures: int
) -> tuple[dict[str, torch.Tensor], str]:
    from PIL import Image

    image = np.full((*size, 3), GREY, np.uint8)
    x1, y1, x2, y2 = map(int, box)
    image[y1:y2, x1:x2] = BRIGHT
    shown = [Image.fromarray(image)] * pictures
    alone = family_of(name).places_picture
    made = processor(
        images=[shown[:1] if alone else shown],
        text=["" if alone else processor.image_token * pictures],
        return_tensors="pt",
        return_text_replacement_offsets=True,
    )
    return made, made["text_replacement_offsets"][0][0]["replacement"]


def picture(name: str, processor: Any, made: Any, size: tuple[int, int], pictures: int) -> np.ndarray:
    """The whole that tiles or patches are of, one channel; nothing in it comes from the code under test."""
    pixels = made["pixel_values"]
    if "image_grid_thw" in made:
        _, rows, columns = made["image_grid_thw"][0].tolist()
        patch = processor.image_processor.patch_size
        blocks = pixels[: rows * columns].reshape(rows // 2, columns // 2, 2, 2, 3, -1, patch, patch)[:, :, :, :, 0, 0]
        whole: np.ndarray = blocks.permute(0, 2, 4, 1, 3, 5).reshape(rows * patch, columns * patch).numpy()
        return whole
    if name == "mistral3":
        height, width = made["image_sizes"][0].tolist()
        return pixels[0, 0, :height, :width].numpy()  # type: ignore[no-any-return]
    if keeps_shape(name, pictures):
        rows, columns = best_grid(processor, size)
        return tiled(pixels[0, 1 : 1 + rows * columns, 0], rows, columns)
    if name == "llava_onevision":
        return pixels[0, 0, 0].numpy()  # type: ignore[no-any-return]
    if name == "gemma4":
        columns, rows = (made["image_position_ids"][0].amax(0) + 1).tolist()
        return patched(pixels[0], rows, columns, processor.image_processor.patch_size)
    if name == "lfm2_vl":
        images, shapes = processor.image_processor, made["spatial_shapes"]
        own = len(pixels) // pictures
        sizes = shapes[:own].tolist()
        parts = [
            torch.from_numpy(patched(x, high, wide, images.encoder_patch_size))
            for x, (high, wide) in zip(pixels, sizes, strict=False)
        ]
        return tiled(torch.stack(parts[:-1]), *near_grid(size, own - 1)) if own > 1 else parts[0].numpy()
    if name in ("idefics3", "smolvlm"):
        own = pixels[0, : len(pixels[0]) // pictures, 0]
        return tiled(own[:-1], *near_grid(size, len(own) - 1)) if len(own) > 1 else own[0].numpy()
    if name == "internvl":
        own = pixels[: len(pixels) // pictures, 0]
        return tiled(own[:-1], *near_grid(size, len(own) - 1)) if len(own) > 1 else own[0].numpy()
    return pixels[0, 0].numpy()  # type: ignore[no-any-return]


def patched(pixels: torch.Tensor, rows: int, columns: int, patch: int) -> np.ndarray:
    """The first channel of patches whose channels come last."""
    cells = pixels[: rows * columns].reshape(rows, columns, patch, patch, 3)[..., 0]
    whole: np.ndarray = cells.permute(0, 2, 1, 3).reshape(rows * patch, columns * patch).numpy()
    return whole


def keeps_shape(name: str, pictures: int) -> bool:
    """Whether the tiles have padding, which the model takes off."""
    return name == "llava_next" or (name == "llava_onevision" and pictures == 1)


def tiled(tiles: torch.Tensor, rows: int, columns: int) -> np.ndarray:
    assert rows * columns == len(tiles)
    high, wide = tiles.shape[-2:]
    whole: np.ndarray = (
        tiles.reshape(rows, columns, high, wide).permute(0, 2, 1, 3).reshape(rows * high, columns * wide).numpy()
    )
    return whole


def near_grid(size: tuple[int, int], tiles: int) -> tuple[int, int]:
    """(rows, columns): the factors whose shape is nearest to the picture's."""
    grids = [(r, tiles // r) for r in range(1, tiles + 1) if tiles % r == 0]
    return min(grids, key=lambda g: abs(np.log(g[1] / g[0] * size[0] / size[1])))


def best_grid(processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    from transformers.image_processing_utils import select_best_resolution

    high, wide = select_best_resolution(size, processor.image_processor.image_grid_pinpoints)
    return high // 32, wide // 32


def span(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def found_in(whole: np.ndarray, name: str, processor: Any, pictures: int) -> Box:
    """The bright box, in pixels of the content where the model takes the padding off, else of all that is seen."""
    images = processor.image_processor
    values = whole * images.image_std[0] + images.image_mean[0] if images.do_normalize else whole  # 0..1 again
    bright = span(values > (GREY + BRIGHT) / 2 / 255)
    if keeps_shape(name, pictures):
        left, top, *_ = span(values > 0.1)  # the padding is black
        return bright[0] - left, bright[1] - top, bright[2] - left, bright[3] - top
    return bright


@pytest.mark.parametrize(("size", "box"), PLACED)
@pytest.mark.parametrize("pictures", [1, 2])
def test_a_bright_box_is_where_the_canvas_says(
    family: tuple[str, Any], size: tuple[int, int], box: Box, pictures: int
) -> None:
    name, processor = family
    if family_of(name).places_picture and pictures > 1:
        pytest.skip("it takes one picture")
    made, expansion = seen(name, processor, size, box, pictures)
    canvas = family_of(name).canvas(Processed(processor, size, made, expansion, pictures))
    whole = picture(name, processor, made, size, pictures)
    if not keeps_shape(name, pictures):
        assert whole.shape == canvas.size
    expected = canvas.to_canvas(box)
    height, width = canvas.size
    clipped = max(expected[0], 0), max(expected[1], 0), min(expected[2], width), min(expected[3], height)
    found = found_in(whole, name, processor, pictures)
    assert np.abs(np.subtract(found, clipped)).max() <= 1.5, (found, clipped)
    # As large in millimetres on the canvas as on the film.
    mm_y, mm_x = canvas.convert_spacing_mm((0.2, 0.2))
    assert (expected[2] - expected[0]) * mm_x == pytest.approx(0.2 * (box[2] - box[0]))
    assert (expected[3] - expected[1]) * mm_y == pytest.approx(0.2 * (box[3] - box[1]))


@pytest.mark.parametrize(("size", "box"), PLACED)
def test_boxes_in_the_words_of_the_family_come_back_to_where_they_were(
    family: tuple[str, Any], size: tuple[int, int], box: Box
) -> None:
    name, processor = family
    made, expansion = seen(name, processor, size, box, 1)
    canvas = family_of(name).canvas(Processed(processor, size, made, expansion, 1))
    writing = Writing(family_of(name).codec)
    placed = writing.place(canvas, box)
    assert placed is not None
    read = parse(writing.write([placed], "a nodule"))
    assert read is not None and len(read) == 1
    back = canvas.to_stored(writing.to_canvas(read[0], canvas))
    (wide, high), visible = writing.extent(canvas), canvas.clip_box(box)
    assert visible is not None
    unit = max(canvas.size[1] / wide / canvas.scale[1], canvas.size[0] / high / canvas.scale[0], 0.15)
    assert np.abs(np.subtract(back, canvas.to_stored(visible))).max() <= unit


@pytest.mark.parametrize("codec", kinds("tasks.codecs"))
def test_what_a_codec_writes_is_read_back_in_its_units_amid_other_words(codec: str) -> None:
    writing, canvas = Writing(codec), Canvas((300, 400), (1.0, 1.0), (0.0, 0.0))
    placed = [
        found for box in [(40, 30, 120, 90), (0, 0, 400, 300)] if (found := writing.place(canvas, box)) is not None
    ]
    for text in (
        writing.write(placed, "a nodule"),
        f"```json\n{writing.write(placed, 'a nodule')}\n```",
        f"They are at {writing.write(placed, 'RBC')}, I think.",
    ):
        np.testing.assert_allclose(parse(text) or [], placed)
    assert parse(writing.write([], "a nodule")) == []
    pixels = [writing.to_canvas(box, canvas) for box in placed]
    np.testing.assert_allclose(pixels, [(40, 30, 120, 90), (0, 0, 400, 300)], atol=0.5)


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (
            "<loc0100><loc0200><loc0300><loc0400> RBC ; <loc0001><loc0002><loc0003><loc0004> RBC",
            [(200, 100, 400, 300), (2, 1, 4, 3)],
        ),
        ("<loc0100><loc0200><loc0300>", None),
        ('[{"box_2d": [100, 200, 300, 400], "label": "RBC"}]', [(200, 100, 400, 300)]),
        ('{"bbox_2d": [100, 200, 300, 400], "label": "RBC"}', [(100, 200, 300, 400)]),
        ("<ref>RBC</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("<|box_start|>(10,20),(30,40)<|box_end|>", [(10, 20, 30, 40)]),
        ("[0.125, 0.25, 0.5, 0.75]", [(0.125, 0.25, 0.5, 0.75)]),
        ("(10, 20)", None),
        ("It is (probably), (perhaps) there", None),
    ],
)
def test_boxes_are_read_in_any_of_the_ways(text: str, boxes: list[Box] | None) -> None:
    assert parse(text) == boxes
