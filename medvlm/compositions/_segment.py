"""The mask of a whole medium on its stored pixels, in windows where it is larger than what the model sees at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from medvlm.core.ask import Files
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Sample
from medvlm.data.composed import ComposedPrepare
from medvlm.data.restore import restore_rows, see_whole
from medvlm.data.steps import deepen
from medvlm.models.sliding import Windows, average_flips, slide


def segment_medium(
    prepare: ComposedPrepare,
    sample: Sample,
    files: Files,
    read_by: tuple[str, str],
    exclusive: bool,
    windows: Windows,
    predict: Callable[[torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """The mask of medium 0: uint8 [*size], 0 for none and 1 for the first of its classes; bool [K, *size] if its
    classes do not exclude each other. read_by: a decoder and its encoder. predict: pixels -> probabilities.

    With preprocess.spacing_mm, a medium that is larger than the input is read in overlapping windows, and their
    probabilities are averaged. Without it the model has only seen whole media, so it is shown the whole one."""
    medium, (decoder, encoder) = sample.media[0], read_by
    if medium.kind not in prepare.routes or prepare.routes[medium.kind] != encoder:
        raise DataError(f"{medium.member}: decoder {decoder} reads media of encoder {encoder}, and this is none")
    transform: Any = prepare.transforms[encoder]
    pixels, steps = see_whole(transform, files[medium.member], medium)
    deep = deepen(medium, prepare.preprocess[encoder])
    run = average_flips(predict, windows.flips)
    slabs = slide(run, pixels, prepare.preprocess[encoder].size, windows.overlap, windows.batch)
    rows = [_label(row, exclusive) for row in restore_rows(slabs, steps, deep.size)]
    return np.stack(rows, 0 if exclusive else 1) if deep is medium else rows[0]


def to_stored(plane: np.ndarray, canvas: Canvas, size: Sequence[int]) -> np.ndarray:
    """The values of a plane [h, w] over the canvas at each stored pixel's centre [H, W]; 0 outside of it. size: (H,
    W)."""
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * scale + offset).astype(int)
        for n, scale, offset in zip(size, canvas.scale, canvas.offset, strict=True)
    )
    inside = ((rows >= 0) & (rows < plane.shape[0]))[:, None] & ((columns >= 0) & (columns < plane.shape[1]))
    found = plane[rows.clip(0, plane.shape[0] - 1)][:, columns.clip(0, plane.shape[1] - 1)]
    return np.where(inside, found, 0)


def _label(probabilities: torch.Tensor, exclusive: bool) -> np.ndarray:
    """[K, *rest] -> uint8 [*rest], the most probable class, or bool [K, *rest], those more probable than not."""
    return probabilities.argmax(0).to(torch.uint8).numpy() if exclusive else (probabilities > 0.5).numpy()
