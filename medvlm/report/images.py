"""Images in a page: a PNG inside the file, with boxes drawn over it as vectors."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from medvlm.core.sample import Box
from medvlm.report.markup import Html, join, tag

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class DrawnBox:
    """kind: `truth`, `answer`, or the number of a label. Each has its own color and dash."""

    box: Box
    kind: str
    title: str


@dataclass(frozen=True)
class Layer:
    """A partly transparent picture that is stretched over another one. kind: as in DrawnBox."""

    png: bytes
    kind: str
    title: str


def read_png_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from the header, or None for bytes that are not a PNG."""
    if len(data) < 24 or not data.startswith(PNG) or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return (width, height) if width and height else None


def draw_picture(
    png: bytes,
    alt: str,
    boxes: Sequence[DrawnBox] = (),
    frame: tuple[float, float] | None = None,
    layers: Sequence[Layer] = (),
) -> Html:
    """An image with masks and boxes over it. frame: (width, height) of the boxes' coordinate system, by default the
    image's pixels.

    Raises ValueError for bytes that are not a PNG.
    """
    size = read_png_size(png)
    if size is None:
        raise ValueError(f"expected a PNG, found {png[:8]!r}")
    width, height = size
    image = tag("img", src=_make_data_url(png), alt=alt, width=width, height=height)
    over = [
        tag("img", src=_make_data_url(each.png), alt=each.title, title=each.title, class_=f"layer m-{each.kind}")
        for each in layers
    ]
    return tag(
        "div",
        tag("div", image, *over, draw_overlay(boxes, *(frame or size)), class_="canvas"),
        class_="picture upright" if height > 1.15 * width else "picture",
    )


def draw_slices(jpegs: Sequence[bytes], names: Sequence[str], alt: str) -> Html:
    """Slices of a volume, see draw_strip()."""
    pictures = [
        tag("img", src=_make_data_url(jpeg, "jpeg"), alt=f"{alt}: {name}")
        for jpeg, name in zip(jpegs, names, strict=True)
    ]
    return draw_strip(pictures, names, alt)


def draw_strip(pictures: Sequence[Html], names: Sequence[str], alt: str) -> Html:
    """Pictures one beside the other in a frame that is as wide as one: it is scrolled, also without a script."""
    each = (tag("div", picture) for picture in pictures)
    said = json.dumps(list(names))
    return tag(
        "div", *each, class_="slices", data_slices=len(pictures), data_names=said, tabindex=0, role="region",
        aria_label=alt,
    )  # fmt: skip


def _make_data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def draw_overlay(boxes: Sequence[DrawnBox], width: float, height: float) -> Html | None:
    """Boxes in their own coordinates. The browser stretches the view box over the image, so nothing is rounded."""
    if not boxes:
        return None
    shapes = []
    for drawn in boxes:
        x1, y1, x2, y2 = (float(v) for v in drawn.box)
        at = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        # Each line has a dark line under it, so that it is visible on bright tissue.
        shapes.append(tag("rect", **at, class_="halo"))
        shapes.append(
            tag(
                "rect",
                tag("title", drawn.title),
                **at,
                class_=f"b-{drawn.kind}" if not drawn.kind.isdigit() else f"b{int(drawn.kind) % 6}",
            )
        )
    label = f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'} drawn: " + ", ".join(
        dict.fromkeys(b.title for b in boxes)
    )
    return tag(
        "svg", *shapes, viewBox=f"0 0 {width:g} {height:g}", preserveAspectRatio="none", role="img", aria_label=label
    )


def draw_box_key(kinds: Sequence[tuple[str, str]]) -> Html:
    """The legend of boxes. kinds: (kind, label) pairs."""
    keys = []
    for kind, label in kinds:
        rect = tag(
            "rect", x=3, y=3, width=20, height=10, class_=f"b-{kind}" if not kind.isdigit() else f"b{int(kind) % 6}"
        )
        keys.append(tag("span", tag("svg", rect, viewBox="0 0 26 16", aria_hidden="true"), label, class_="box-key"))
    return tag("p", join(keys))
