"""The quick decoder gives the pixels that Pillow gives, and refuses what the careful one refuses."""

from __future__ import annotations

import io
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvlm.core.errors import DataError
from medvlm.data.pixels import decode
from medvlm.io.images import MAX_PIXELS


def jpeg(pixels: np.ndarray, mode: str | None = None, **settings: Any) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(out, "JPEG", **settings)
    return out.getvalue()


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    smooth = 120 + 70 * np.sin(x / 9) * np.cos(y / 7)
    noise = np.random.default_rng(height * width).normal(0, 12, (height, width, channels))
    return (smooth[..., None] + noise).clip(0, 255).astype(np.uint8).squeeze()


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 48), (129, 257)])
@pytest.mark.parametrize(
    "settings",
    [
        {"quality": 90},
        {"quality": 30, "progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"restart_marker_blocks": 2},
    ],
    ids=str,
)
def test_colour_and_grey_are_pillows_pixels_to_the_bit(size: tuple[int, int], settings: dict[str, Any]) -> None:
    for channels in (1, 3):
        data = jpeg(picture(*size, channels).reshape(size if channels == 1 else (*size, 3)), **settings)
        assert np.array_equal(decode(data, "x"), np.asarray(Image.open(io.BytesIO(data))))


def test_what_is_not_a_plain_jpeg_is_refused_with_the_reason() -> None:
    good = jpeg(picture(64, 48))
    frame = good.index(b"\xff\xc0")
    twelve_bit = good[: frame + 4] + b"\x0c" + good[frame + 5 :]
    bomb = good[: frame + 5] + (9000).to_bytes(2, "big") * 2 + good[frame + 9 :]
    for data, reason in [
        (jpeg(picture(8, 8), "CMYK"), "pixel mode CMYK"),
        (twelve_bit, "damaged JPEG"),
        (good[: len(good) // 2], "damaged JPEG"),
        (good[:100], "damaged JPEG"),
        (bomb, f"more than the {MAX_PIXELS:,} that are decoded"),
        (b"", "empty file"),
        (b"hello", "not a PNG, JPEG or .npy, but a text"),
    ]:
        with pytest.raises(DataError, match=f"^x: .*{reason}"):
            decode(data, "x")


def test_two_images_in_one_file_are_refused() -> None:
    out = io.BytesIO()
    first, second = Image.fromarray(picture(16, 16)), Image.fromarray(picture(16, 16))
    first.save(out, "MPO", save_all=True, append_images=[second])
    with pytest.raises(DataError, match="2 frames in one file"):
        decode(out.getvalue(), "x")


def test_the_interpreter_goes_on_while_a_film_is_decoded() -> None:
    """A thread that counts keeps counting: with the lock held it would stand still for most of the time."""
    data = jpeg(picture(2048, 2048))
    decode(data, "x")
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    began, before = time.perf_counter(), counted[0]
    for _ in range(5):
        decode(data, "x")
    seconds, ticks = time.perf_counter() - began, counted[0] - before
    stop.set()
    thread.join()
    assert ticks > 5 * 3, f"{ticks} ticks in {seconds:.3f} s"
