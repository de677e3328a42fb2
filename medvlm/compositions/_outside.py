"""Models that process pictures by themselves, behind transformers' own processor or a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from medvlm.compositions._opened import Opened
from medvlm.core.ask import Ask
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas, identity, join_canvases
from medvlm.core.sample import Medium, Sample, Truth
from medvlm.core.tasks import find_task
from medvlm.core.turns import state_pixels, write_messages
from medvlm.data.prepare import place_truth
from medvlm.data.views import Views, list_slices, make_pictures
from medvlm.io.images import decode, encode_png
from medvlm.tasks._writing import Writing

OWN = Views(percentiles=(0.5, 99.5))
"""How media with more than 8 bits are shown if nothing is known about their range."""


class OutsideModel(Opened):
    """A model that answers by its own processing of pictures, of which nothing is known.

    boxes: how it writes boxes, in units of the whole picture; None if nobody said. Then it is not asked for them.
    """

    can = frozenset({"answer"})
    boxes: Writing | None = None

    def kind_of(self, axes: int, asked: str = "") -> str:
        return asked or "own"

    def find_writing(self) -> Writing | None:
        """How it writes boxes; None if nobody said."""
        return self.boxes

    def find_box_extent(self, ask: Ask) -> tuple[float, float]:
        return (self.boxes or Writing()).extent(self.find_canvas(ask))

    def place_truth(self, ask: Ask) -> Truth:
        """Raises DataError for a question that is answered with boxes, if it is not known how the model writes them."""
        if self.boxes is None and find_task(ask.question.truth.task).NEEDS_CANVAS:
            raise DataError("how this model writes boxes is not known; set model.boxes.codec")
        return place_truth(ask.question, self.find_canvas(ask), self.boxes or Writing())

    def draw_thumbnail(self, ask: Ask) -> bytes:
        first = ask.sample.media[0]
        shown = show(first, ask.files[first.member])
        return encode_png(np.asarray(shown[len(shown) // 2]))

    def find_canvas(self, ask: Ask) -> Canvas:
        return _find_canvas(ask.sample)


def write_chat(ask: Ask, make_part: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of an ask, with the turns before it. make_part: a PIL image -> the part of a message that shows
    it."""
    sample, files = ask.media_of or (ask.sample, ask.files)
    own = [show(m, files[m.member]) for m in sample.media] if ask.shows == "media" else []
    question = state_pixels(ask.question, sample.media, _find_canvas(sample) if sample.media else None)
    messages, shown = write_messages(question, own)
    waiting = iter(shown)
    return [
        {
            "role": message.role,
            "content": [
                make_part(next(waiting)) if part is None else {"type": "text", "text": part} for part in message.parts
            ],
        }
        for message in messages
    ]


def _find_canvas(sample: Sample) -> Canvas:
    """Slices of a volume are shown as pictures, see show()."""
    canvas = join_canvases([_keep_size(medium) for medium in sample.media])
    assert canvas is not None
    return canvas


def _keep_size(medium: Medium) -> Canvas:
    return replace(identity(medium.size[-2:]), slices=list_slices(medium, OWN, OWN.max_slices))


def show(medium: Medium, stored: Any) -> list[Any]:
    """Converts a medium to 8-bit pictures: a film to one, a volume to slices. A medium with more bits is windowed by
    its own percentiles."""
    from PIL import Image

    array = decode(stored, medium.member) if isinstance(stored, bytes) else stored
    views = Views() if array.dtype == "uint8" else OWN
    return [Image.fromarray(picture) for picture in make_pictures(array, medium, views)]
