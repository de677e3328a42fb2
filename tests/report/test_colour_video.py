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
from medvlm.report.display import SLICES, make_slices


def frames(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "shown", "mode"),
    [
        ((90, 6, 8, 3), "24 of 90 frames", "RGB"),
        ((3, 6, 8, 3), "all frames", "RGB"),
        ((1, 6, 8, 3), "all frames", "RGB"),
        ((90, 6, 8), "24 of 90 slices", "L"),
        ((30, 8, 3), "24 of 30 slices", "L"),
        ((4, 8, 3), "all slices", "L"),
    ],
)
def test_a_video_is_scrolled_in_its_colours(shape: tuple[int, ...], shown: str, mode: str) -> None:
    pixels = np.broadcast_to(frames((shape[0],))[(..., *[None] * (len(shape) - 1))], shape).copy()
    jpegs, names, words = make_slices(pixels, Medium("cine", "0.npy", shape[:3]))
    depth, height, width = shape[:3]
    count = min(depth, SLICES)
    first = Image.open(io.BytesIO(jpegs[0]))
    assert words == shown and first.mode == mode and first.size == (width, height) and len(jpegs) == count
    assert names[-1] == f"{shown.split()[-1][:-1]} {round(depth * (count - 0.5) / count - 0.5) + 1} of {depth}"
    assert abs(np.asarray(first).astype(int) - pixels[round(depth * 0.5 / count - 0.5)]).max() < 3


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
