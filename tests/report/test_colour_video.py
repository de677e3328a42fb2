"""Pages of data sets with videos: colour [D, H, W, 3], grey, of one frame and of many."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlm.cli import main
from medvlm.core.sample import Medium, Sample
from medvlm.io.images import encode_npy
from medvlm.io.shards import ShardWriter
from medvlm.report.display import make_png


def frames(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "shown", "mode"),
    [
        ((9, 6, 8, 3), "5 of 9 frames", "RGB"),
        ((3, 6, 8, 3), "all frames", "RGB"),
        ((1, 6, 8, 3), "all frames", "RGB"),
        ((9, 6, 8), "5 of 9 slices", "L"),
        ((6, 8, 3), "5 of 6 slices", "L"),
        ((4, 8, 3), "all slices", "L"),
    ],
)
def test_a_video_is_drawn_as_a_row_of_frames_in_its_colours(shape: tuple[int, ...], shown: str, mode: str) -> None:
    pixels = frames(shape)
    png, words = make_png(encode_npy(pixels), Medium("cine", "0.npy", shape[:3]), "0.npy")
    drawn = Image.open(io.BytesIO(png))
    depth, height, width = shape[:3]
    count = min(depth, 5)
    assert words == shown and drawn.mode == mode and drawn.size == (count * width, height)
    first = pixels[round(depth * 0.5 / count - 0.5)]
    assert np.array_equal(np.asarray(drawn)[:, :width], first)


@pytest.mark.parametrize("shape", [(9, 6, 8, 3), (1, 6, 8, 3), (4, 6, 8)])
@pytest.mark.parametrize("verb", ["show", "stats", "audit"])
def test_every_page_takes_a_video(
    verb: str, shape: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ShardWriter(tmp_path / "shards", "train") as writer:
        for i in range(3):
            medium = Medium("cine", "0.npy", shape[:3], modality="US")
            writer.write(
                Sample(f"s{i}", "made", "train", (medium,), "text", patient=f"p{i}"),
                {"0.npy": encode_npy(frames(shape) + i)},
            )
    to = [] if verb == "audit" else ["--to", str(tmp_path / "page.html")]
    assert main(["data", verb, str(tmp_path / "shards"), *to]) == 0, capsys.readouterr().err
    if to:
        assert "cine" in (tmp_path / "page.html").read_text()
