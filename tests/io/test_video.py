"""Generated videos whose frames have known grey levels, so that every frame identifies its index."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from medvlm.core.errors import DataError
from medvlm.io import video
from medvlm.io.video import VideoOptions, load_video

from .limited import digest, judge

STEP = 5
"""Frame i is grey of i * STEP, with a red corner at the upper left."""


def frames(count: int = 40, height: int = 48, width: int = 64) -> list[np.ndarray]:
    made = [np.full((height, width, 3), i * STEP, np.uint8) for i in range(count)]
    for image in made:
        image[:8, :8] = (255, 0, 0)
    return made


def film(
    path: Path,
    images: list[np.ndarray],
    codec: str = "ffv1",
    pixels: str = "bgr0",
    rate: int = 10,
    turn: int = 0,
    times: list[int] | None = None,
) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = images[0].shape[1], images[0].shape[0], pixels
        if turn:
            stream.set_display_rotation(turn)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.ndim == 3 else "gray")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(found: Any) -> list[int]:
    """The indices of frames, from the grey level in their middle."""
    return [round(float(x) / STEP) for x in found.pixels[:, 24, 32].reshape(len(found.pixels), -1).mean(1)]


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "rate"),
    [
        ("x.mkv", "ffv1", "bgr0", 10),
        ("x.mov", "png", "rgb24", 10),
        ("x.avi", "rawvideo", "bgr24", 10),
        ("x.avi", "mjpeg", "yuvj444p", 10),
        ("x.mp4", "libx264", "yuv444p", 10),
        ("x.mkv", "libx264", "yuv444p", 10),
        ("x.webm", "libvpx-vp9", "yuv444p", 10),
        ("x.wmv", "wmv2", "yuv420p", 10),
        ("x.mpg", "mpeg2video", "yuv420p", 25),
    ],
)
def test_the_chosen_frames_are_shown_at_the_wanted_times(name, codec, pixels, rate, tmp_path):
    """In every container, including frames stored in another order than they are shown (B-frames)."""
    path = film(tmp_path / name, frames(), codec, pixels, rate)
    assert numbers(load_video(path, VideoOptions(fps=rate / 5))) == list(range(0, 40, 5))
    assert numbers(load_video(path, VideoOptions(fps=rate))) == list(range(40))
    eight = numbers(load_video(path, VideoOptions(frames=8)))
    # The middle of a part may fall between two frames.
    assert np.abs(np.array(eight) - [2, 7, 12, 17, 22, 27, 32, 37]).max() <= 1
    assert numbers(load_video(path, VideoOptions(frames=100))) == list(range(40))


def test_lossless_video_gives_exact_pixels(tmp_path):
    images = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8) for i in range(6)]
    found = load_video(film(tmp_path / "x.mkv", images), VideoOptions(fps=10))
    assert (found.unit, found.spacing_mm, found.affine) == ("display", None, None)
    assert np.array_equal(found.pixels, images)


def test_grey_video_has_no_colour_axis(tmp_path):
    images = [np.random.default_rng(i).integers(0, 256, (48, 64), dtype=np.uint8) for i in range(6)]
    found = load_video(film(tmp_path / "x.mkv", images, pixels="gray"), VideoOptions(frames=3))
    assert np.array_equal(found.pixels, images[1::2])


def test_unevenly_timed_frames_are_chosen_by_time_not_by_index(tmp_path):
    """Frames are shown at 0, 1, 2, 10, 11, 12, 13 and 20 tenths of a second. At 1 s the frame of 10 tenths is shown, at
    0.5 s still that of 2."""
    path = film(tmp_path / "x.mkv", frames(8), times=[0, 1, 2, 10, 11, 12, 13, 20])
    assert numbers(load_video(path, VideoOptions(fps=2))) == [0, 2, 3, 6, 7]
    assert numbers(load_video(path, VideoOptions(fps=1))) == [0, 3, 7]


@pytest.mark.parametrize(("turn", "corner"), [(90, (-4, 4)), (-90, (4, -4)), (180, (-4, -4))])
def test_a_video_recorded_sideways_is_turned_upright(turn, corner, tmp_path):
    """Turned counter-clockwise by `turn`, the red corner is elsewhere."""
    found = load_video(
        film(tmp_path / "x.mp4", frames(2), "libx264", "yuv444p", turn=turn), VideoOptions(frames=1)
    ).pixels[0]
    assert found.shape[:2] == ((64, 48) if abs(turn) == 90 else (48, 64))
    red, green, _ = found[corner].astype(int)
    assert red > 200 and green < 50


def test_large_frames_are_downscaled_to_short_px(tmp_path):
    images = frames(2, 90, 120)
    found = load_video(film(tmp_path / "x.mkv", images), VideoOptions(fps=10, short_px=45)).pixels
    assert np.array_equal(
        found, [np.asarray(Image.fromarray(x).resize((60, 45), Image.Resampling.BICUBIC)) for x in images]
    )
    assert load_video(tmp_path / "x.mkv", VideoOptions(fps=10, short_px=100)).pixels.shape == (2, 90, 120, 3)


def test_limits_of_size_and_time_are_enforced(tmp_path, monkeypatch):
    path = film(tmp_path / "x.mkv", frames())
    for name, value, reason in (
        ("MAX_FRAME_PIXELS", 48 * 64 - 1, "frames of 64 x 48 pixels"),
        ("MAX_BYTES", 40 * 48 * 64 * 3 - 1, r"40 frames of 64 x 48 take more than .*short_px"),
        ("MAX_PACKETS", 39, "more than the 39 frames"),
        ("MAX_SECONDS", -1, "decoding took more than"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(video, name, value)
            with pytest.raises(DataError, match=reason):
                load_video(path, VideoOptions(fps=10))
    with pytest.raises(ValueError, match="either `fps`"):
        VideoOptions(fps=1, frames=2)


def test_the_real_archives_contain_no_video(real_data):
    """Whoever adds a video must also add its expected result."""
    assert [p for p in real_data.rglob("*") if p.name.lower().endswith(video.SUFFIXES)] == []


# --- hostile files ---------------------------------------------------------------------------------------------


def hostile(folder: Path) -> dict[str, Path]:
    made: dict[str, Path] = {}

    def file(name: str, data: bytes) -> None:
        made[name] = folder / name
        made[name].write_bytes(data)

    for name, codec, pixels in (
        ("whole.mp4", "libx264", "yuv420p"),
        ("whole.mkv", "ffv1", "bgr0"),
        ("whole.avi", "mjpeg", "yuvj420p"),
    ):
        data = film(folder / name, frames(), codec, pixels).read_bytes()
        for end in (0, 4, 8, 30, 100, 600, len(data) // 4, len(data) // 2, len(data) - 3000):
            file(f"cut_{end}_{name}", data[:end])
        noisy = bytearray(data)
        noisy[len(data) // 4 : len(data) // 2] = np.random.default_rng(0).bytes(len(data) // 2 - len(data) // 4)
        file(f"noise_{name}", bytes(noisy))
    moved = bytearray((folder / "whole.mp4").read_bytes())
    at = moved.rindex(b"avc1") + 28  # width and height in the sample entry
    moved[at : at + 4] = b"\xff\xff\xff\xff"
    file("size_65535.mp4", bytes(moved))
    file("playlist.mp4", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n")
    file("concat.mkv", b"ffconcat version 1.0\nfile whole.mkv\n")
    file("html.mp4", b"<!DOCTYPE html>" + b"x" * 9000)
    file("noise.avi", b"RIFF" + bytes(4) + b"AVI " + np.random.default_rng(1).bytes(5000))
    file("noise.mkv", b"\x1a\x45\xdf\xa3" + np.random.default_rng(2).bytes(5000))
    file("atom_4G.mp4", b"\xff\xff\xff\xffftypisom" + bytes(100))
    file("atom_0.mp4", b"\0\0\0\x08ftyp" * 1000)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    made["sound.mp4"] = folder / "sound.mp4"
    made["folder.mp4"] = folder / "folder.mp4"
    made["folder.mp4"].mkdir()
    return made


def test_hostile_videos_are_refused_or_read_correctly_in_2_GB(tmp_path):
    files = hostile(tmp_path)
    assert len(files) >= 38
    options = VideoOptions(frames=8)
    found = judge({name: partial(load_video, path, options) for name, path in files.items()})
    right = {digest(load_video(tmp_path / name, options).pixels) for name in ("whole.mp4", "whole.mkv", "whole.avi")}
    read = {name for name, verdict in found.items() if verdict.is_read}
    assert {found[name].pixels for name in read} <= right, read
    assert all(str(tmp_path) not in verdict.reason and name not in verdict.reason for name, verdict in found.items())
