"""Boxes on all stored pixels of a medium: found in windows where it is larger than what the model sees at once, and in
mirror images of them, and joined by weighted clustering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations, product
from typing import Any

import numpy as np
import torch

from medvlm.core.ask import Files
from medvlm.core.sample import Sample
from medvlm.data.composed import ComposedPrepare
from medvlm.data.restore import see_whole
from medvlm.models.box_clusters import Seen, cluster, count_windows, weigh_places
from medvlm.models.sliding import Windows, list_starts

Predict = Callable[[torch.Tensor], torch.Tensor]
"""Windows [N, C, *window] -> class, score and corners of what is found in each, [N, M, 2 + 2 axes]; a class below 0 is
none."""


def find_boxes(
    prepare: ComposedPrepare, sample: Sample, files: Files, encoder: str, windows: Windows, predict: Predict
) -> np.ndarray:
    """[M, 2 + 2 axes], class, score and corners in stored pixels of medium 0, the surest first."""
    medium = sample.media[0]
    transform: Any = prepare.transforms[encoder]
    pixels, steps = see_whole(transform, files[medium.member], medium)
    size = prepare.preprocess[encoder].size
    starts = list(product(*map(list_starts, pixels.shape[1:], size, [windows.overlap] * len(size))))
    mirrors = list(chain(*(combinations(windows.flips, n) for n in range(len(windows.flips) + 1))))
    found = [_look(predict, pixels, starts, size, mirror, windows.batch) for mirror in mirrors]
    for turn, rows in enumerate(found):
        rows[:, -1] += turn * len(starts)  # a window that is mirrored is another view
    joined = join(np.concatenate(found), starts, size, len(mirrors))
    scale, offset = (np.tile(each, 2) for each in (steps.canvas.scale, steps.canvas.offset))
    joined[:, 2:] = (joined[:, 2:] - offset) / scale
    return joined


def _look(
    predict: Predict,
    pixels: torch.Tensor,
    starts: Sequence[tuple[int, ...]],
    size: Sequence[int],
    mirror: Sequence[int],
    batch: int,
) -> np.ndarray:
    """[M, 3 + 2 axes]: class, score, corners within the window, and the number of the window. mirror: axes."""
    rows = []
    for at in range(0, len(starts), batch):
        spots = starts[at : at + batch]
        places = [tuple(slice(n, n + side) for n, side in zip(spot, size, strict=True)) for spot in spots]
        cut = [pixels[(slice(None), *place)] for place in places]
        answers = predict(torch.stack(cut).flip([2 + axis for axis in mirror])).numpy()
        for number, answer in enumerate(answers, at):
            own = answer[answer[:, 0] >= 0].astype(np.float64)
            for axis in mirror:
                low, high = 2 + axis, 2 + len(size) + axis
                own[:, [low, high]] = size[axis] - own[:, [high, low]]
            rows.append(np.column_stack([own, np.full(len(own), number)]))
    return np.concatenate(rows)


def join(found: np.ndarray, starts: Sequence[tuple[int, ...]], size: Sequence[int], networks: int) -> np.ndarray:
    """[M, 2 + 2 axes] on the whole of what the windows are cut from. found: class, score, corners within the window,
    and the number of the view; views of the same windows follow each other. networks: how often all windows are
    read."""
    views = found[:, -1].astype(int)
    within, own_starts = found[:, 2:-1], np.array(starts)[views % len(starts)]
    shares = weigh_places(within, size) if len(starts) > 1 else np.ones(len(found))
    boxes = within + np.tile(own_starts, 2)
    over = count_windows(boxes, starts, size)
    rows: list[Any] = [np.zeros((0, found.shape[1] - 1))]
    for of in np.unique(found[:, 0]):
        own = found[:, 0] == of
        places, scores = cluster(Seen(boxes[own], found[own, 1], shares[own], over[own], views[own]), networks)
        rows.append(np.column_stack([np.full(len(scores), of), scores, places]))
    joined = np.concatenate(rows)
    return joined[joined[:, 1].argsort(kind="stable")[::-1]]
