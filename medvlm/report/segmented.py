"""A page of one mask: the image with what was found in colour, slice by slice for a volume, and how much of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.contracts import Preprocess
from medvlm.core.sample import Medium
from medvlm.data.pixels import decode
from medvlm.data.transforms import to_display
from medvlm.io.images import encode_png
from medvlm.report import numbers
from medvlm.report.images import Layer, draw_picture, draw_strip
from medvlm.report.markup import Child, Html, join, tag
from medvlm.report.page import make_facts, make_section, make_table, write_page

SLICES = 24
"""Slices of a volume on the page, at equal distances."""
COLOURS = ((255, 180, 84), (63, 224, 208), (232, 121, 249), (163, 230, 53), (96, 165, 250), (248, 113, 113))
"""Of the classes, in turn."""
OPACITY = 130
"""Of 255."""


def write_segmented(
    to: Path,
    name: str,
    stored: Any,
    medium: Medium,
    preprocess: Preprocess,
    mask: np.ndarray,
    decoder: Any,
    found: Sequence[Any],
) -> Path:
    """stored: the pixels of the medium, or their bytes. mask: uint8 [*size], or bool [K, *size] of classes that
    overlap, of which the last one is shown on top. found: name, pixels, ml and parts of each class."""
    array = decode(stored, medium.member) if isinstance(stored, bytes) else stored
    shown = to_display(array, preprocess)
    labels = mask if decoder.exclusive else _flatten(mask)
    legend = tag("p", *(_draw_key(each.name, number) for number, each in enumerate(found)), class_="legend")
    chosen = _choose_slices(medium.size[0])
    if len(medium.size) == 2:
        picture = tag("div", _draw(shown, labels, name), class_="gallery")
    else:
        names = [f"slice {at + 1} of {medium.size[0]}" for at in chosen]
        slices = [_draw(shown[at], labels[at], title) for at, title in zip(chosen, names, strict=True)]
        picture = tag("div", draw_strip(slices, names, name), class_="card viewer")
    about = f"{len(chosen)} slices at equal distances." if len(medium.size) == 3 else None
    sections = [
        make_section("What was found", "found", _make_table(found)),
        make_section("Mask", "mask", legend, picture, about=about),
    ]
    head: list[Child] = [make_facts([("size", " x ".join(map(str, medium.size))), ("classes", len(found))])]
    return write_page(to, title=name, eyebrow="mask", head=head, sections=sections)


def _make_table(found: Sequence[Any]) -> Html:
    rows: list[list[Child]] = [
        [each.name, numbers.format_whole(each.pixels), "" if each.ml is None else f"{each.ml:.2f}", each.parts]
        for each in found
    ]
    return make_table("Found", ["class", "pixels", "ml", "components"], rows, numeric={1, 2, 3})


def _flatten(mask: np.ndarray) -> np.ndarray:
    labels = np.zeros(mask.shape[1:], np.uint8)
    for number, plane in enumerate(mask, 1):
        labels[plane] = number
    return labels


def _choose_slices(count: int) -> list[int]:
    return sorted({round(at) for at in np.linspace(0, count - 1, min(SLICES, count)).tolist()})


def _draw(picture: np.ndarray, labels: np.ndarray, title: str) -> Html:
    layer = Layer(_encode(labels), "answer", title)
    return tag("figure", draw_picture(encode_png(np.ascontiguousarray(picture)), title, layers=[layer]))


def _draw_key(name: str, number: int) -> Html:
    red, green, blue = COLOURS[number % len(COLOURS)]
    box = tag("rect", width=12, height=12, fill=f"rgb({red},{green},{blue})")
    return tag("span", join([tag("svg", box, width=12, height=12), name], " "))


def _encode(labels: np.ndarray) -> bytes:
    """PNG, transparent where nothing was found."""
    from PIL import Image

    count = int(labels.max(initial=0))
    image = Image.fromarray(np.where(labels > 0, (labels - 1) % len(COLOURS) + 1, 0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *(part for colour in COLOURS for part in colour)])
    out = io.BytesIO()
    image.save(out, "PNG", transparency=bytes([0, *[OPACITY] * min(max(count, 1), len(COLOURS))]))
    return out.getvalue()
