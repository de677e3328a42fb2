"""Masks over an image: each a PNG of two colours, one of them clear, laid over the picture by the page."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from medvlm.core.tasks import Drawing
from medvlm.report.images import Layer
from medvlm.tasks._runs import read_runs

COLOURS = {"truth": (63, 224, 208), "answer": (255, 180, 84)}
"""As those of boxes in style.css."""
OPACITY = 115
"""Of 255: what lies under a mask is seen, and where both lie on each other too."""


def layers_of(drawing: Drawing) -> Iterator[Layer]:
    """The masks of a truth and of an answer; of volumes the middle slice, which is what the picture shows."""
    for kind, masks in (("truth", drawing.masks), ("answer", drawing.found_masks)):
        for runs, label in masks:
            planes = read_runs(runs, 1)
            if planes is not None:
                yield Layer(_png(planes[0], kind), kind, f"{kind}: {label}")


def _png(mask: np.ndarray, kind: str) -> bytes:
    from PIL import Image

    flat = mask[len(mask) // 2] if mask.ndim == 3 else mask
    image = Image.fromarray(flat.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *COLOURS[kind]])
    out = io.BytesIO()
    image.save(out, "PNG", bits=1, transparency=bytes([0, OPACITY]))
    return out.getvalue()
