"""Masks over an image. Each is a PNG with one color and transparency, which the page shows over the picture."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from medvlm.core.tasks import Drawing
from medvlm.report.images import Layer
from medvlm.tasks._runs import read_runs

COLOURS = {"truth": (63, 224, 208), "answer": (255, 180, 84)}
"""The same as for boxes in style.css."""
OPACITY = 115
"""Of 255, so that the image and a second mask are visible under a mask."""


def layers_of(drawing: Drawing) -> Iterator[Layer]:
    """The masks of a truth and of an answer. Of volumes it is the middle slice, which the picture shows."""
    for kind, masks in (("truth", drawing.masks), ("answer", drawing.found_masks)):
        for runs, label in masks:
            planes = read_runs(runs, 1)
            if planes is not None:
                yield Layer(_encode_layer(planes[0], kind), kind, f"{kind}: {label}")


def _encode_layer(mask: np.ndarray, kind: str) -> bytes:
    from PIL import Image

    flat = mask[len(mask) // 2] if mask.ndim == 3 else mask
    image = Image.fromarray(flat.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *COLOURS[kind]])
    out = io.BytesIO()
    image.save(out, "PNG", bits=1, transparency=bytes([0, OPACITY]))
    return out.getvalue()
