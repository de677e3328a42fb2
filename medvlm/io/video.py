"""Reads some frames of a video, chosen by the time at which they are shown: a rate per second, or a total number.

PyAV decodes. The container format is detected from the first bytes and the file is passed as an open stream, so that
no playlist can make ffmpeg open another file or address. Axes: D frames, H W height, width.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg")
MAX_FRAME_PIXELS = 8192 * 4320
MAX_BYTES = 1 << 29
"""Limit for the frames that are kept: 86 in full HD."""
MAX_PACKETS = 1_000_000
"""Limit for the frames of a video: 9 hours at 30 per second."""
MAX_SECONDS = 300
"""Limit for decoding one video."""

_EBML, _ASF = b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"


class VideoOptions(Config):
    """Which frames of a video are read. Give either `fps` or `frames`."""

    fps: float | None = Field(None, gt=0)
    """Frames per second, starting with the first frame."""
    frames: int | None = Field(None, gt=0)
    """Number of frames: the video is divided into this many equal parts, and the middle frame of each is read. A
    shorter video gives all its frames."""
    short_px: int = Field(0, ge=0)
    """Largest length of the shorter side; larger frames are downscaled to it. 0 keeps their size."""

    @model_validator(mode="after")
    def _one_rule(self) -> VideoOptions:
        if (self.fps is None) == (self.frames is None):
            raise ValueError("expected either `fps` (frames per second) or `frames` (total number)")
        return self


def load_video(path: Path, options: VideoOptions) -> Decoded:
    """uint8 [D, H, W, 3], or [D, H, W] if the video is grey. Raises DataError for a video that is damaged, truncated or
    too large."""
    limit = time.monotonic() + MAX_SECONDS
    with _open_video(path) as (container, stream):
        times = _read_times(container, stream)
        rate = float(stream.time_base or 0)
    chosen = _choose_frames(times, rate, options)
    with _open_video(path) as (container, stream):
        frames = _decode_frames(container, stream, {times[i] for i in chosen}, options, limit)
    return Decoded(np.stack([frames[times[i]] for i in chosen]))


def _choose_frames(times: list[int], rate: float, options: VideoOptions) -> list[int]:
    """Indices of the frames that are shown at the wanted moments. times: when each frame is shown, ascending, in units
    of `rate` seconds."""
    seconds = [(t - times[0]) * rate for t in times]
    if options.fps is not None:
        wanted = [i / options.fps for i in range(int(seconds[-1] * options.fps + 1e-6) + 1)]
    else:
        assert options.frames is not None
        # The duration of the last frame is not stored; assume the average.
        step = seconds[-1] / (len(seconds) - 1) if len(seconds) > 1 else 1.0
        count = min(options.frames, len(times))
        wanted = [(seconds[-1] + step) * (i + 0.5) / count for i in range(count)]
    return [max(bisect_right(seconds, moment + 1e-6) - 1, 0) for moment in wanted]


def _read_times(container: InputContainer, stream: VideoStream) -> list[int]:
    """When each frame is shown, ascending, in units of the stream's time base. Read from the packets without
    decoding."""
    found = []
    for packet in container.demux(stream):
        if packet.size:
            found.append(packet.pts if packet.pts is not None else packet.dts)
        if len(found) > MAX_PACKETS:
            raise DataError(f"more than the {MAX_PACKETS:,} frames that are read; cut it into scenes")
    times = sorted({t for t in found if t is not None})
    if not times or len(times) < len(found):
        raise DataError("its frames have no times, or several have the same; re-encode it, e.g. with ffmpeg")
    if len(times) < stream.frames:
        raise DataError(f"it ends after {len(times)} of the {stream.frames} frames in its header; copy it again")
    last = (times[-1] - times[0]) * float(stream.time_base or 0)
    said = (container.duration or 0) / 1e6
    if len(container.streams) == 1 and said - last > max(0.5, 0.02 * said):
        raise DataError(f"it ends after {last:.1f} of the {said:.1f} seconds in its header; copy it again")
    return times


def _decode_frames(
    container: InputContainer, stream: VideoStream, wanted: set[int], options: VideoOptions, limit: float
) -> dict[int, np.ndarray]:
    """The frames that are shown at the wanted times, by time. Raises DataError if one of them cannot be decoded."""
    found: dict[int, np.ndarray] = {}
    for frame in container.decode(stream):
        if time.monotonic() > limit:
            raise DataError(f"decoding took more than {MAX_SECONDS} s; cut it into scenes")
        at = frame.pts if frame.pts is not None else frame.dts
        if at in wanted and at not in found:
            found[at] = _to_pixels(frame, options)
            if found[at].nbytes * len(wanted) > MAX_BYTES:
                height, width = found[at].shape[:2]
                raise DataError(
                    f"{len(wanted)} frames of {width} x {height} take more than {MAX_BYTES >> 20} MiB; read fewer, or"
                    " set video: {short_px: ...}"
                )
            if found[at].shape != next(iter(found.values())).shape:
                raise DataError("its frames have different sizes")
        if len(found) == len(wanted):
            return found
    raise DataError(
        f"{len(wanted) - len(found)} of the {len(wanted)} chosen frames cannot be decoded: it is truncated or damaged"
    )


def _to_pixels(frame: VideoFrame, options: VideoOptions) -> np.ndarray:
    """A frame as players show it, upright (phones record sideways) and in 8 bits. Pixels that are not square are kept
    as they are."""
    from PIL import Image

    if frame.is_corrupt:
        raise DataError("a chosen frame is damaged")
    image = frame.to_ndarray(format="gray" if frame.format.name.startswith("gray") else "rgb24")
    if frame.rotation % 90:
        raise DataError(f"it is rotated by {frame.rotation} degrees; expected a multiple of 90")
    image = np.rot90(image, frame.rotation // 90)
    height, width = image.shape[:2]
    if options.short_px and min(height, width) > options.short_px:
        scale = options.short_px / min(height, width)
        image = np.asarray(
            Image.fromarray(np.ascontiguousarray(image)).resize(
                (round(width * scale), round(height * scale)), Image.Resampling.BICUBIC
            )
        )
    return np.ascontiguousarray(image)


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        import av
    except ModuleNotFoundError:
        raise DataError("reading video needs PyAV; pip install 'medvlm[video]'") from None
    try:
        with path.open("rb") as file:
            kind = _detect_container(file.read(64))
            file.seek(0)
            with av.open(file, mode="r", format=kind) as container:
                if len(container.streams.video) != 1:
                    raise DataError(f"it has {len(container.streams.video)} video streams; expected one")
                (stream,) = container.streams.video
                if not 0 < stream.width * stream.height <= MAX_FRAME_PIXELS:
                    raise DataError(
                        f"frames of {stream.width} x {stream.height} pixels; at most {MAX_FRAME_PIXELS:,} are decoded"
                    )
                # By default, ffmpeg conceals missing parts of a frame.
                stream.codec_context.options = {"err_detect": "explode"}
                stream.codec_context.thread_count = 1
                yield container, stream
    except DataError:
        raise
    except av.FFmpegError as reason:
        raise DataError(
            f"it cannot be decoded: it is truncated or damaged, or its codec is unknown ({type(reason).__name__})"
        ) from None
    except OSError as reason:
        raise DataError(f"its file cannot be read ({type(reason).__name__})") from None
    except MemoryError:
        raise DataError("it needs more memory than is available") from None
    except (ValueError, OverflowError) as reason:
        raise DataError(f"its structure is damaged ({type(reason).__name__})") from None


def _detect_container(head: bytes) -> str:
    """ffmpeg's name of the container format. Raises DataError for unsupported formats, above all playlists."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == _EBML:
        return "matroska"
    if head[:8] == _ASF:
        return "asf"
    if head[:4] == b"\0\0\1\xba":
        return "mpeg"
    raise DataError("not a supported video (MP4, MOV, AVI, Matroska, WebM, WMV, MPEG), or an empty file")
