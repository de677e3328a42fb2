"""Histograms as inline SVG, with one outline for each split, so that differences between splits are visible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medvlm.report import numbers
from medvlm.report.curves import BOTTOM, LEFT, RIGHT, TOP, WIDTH
from medvlm.report.markup import Html, join, tag
from medvlm.report.scales import Axis, make_axis

if TYPE_CHECKING:
    import numpy as np

BINS = 40
HEIGHT = 150
TAIL = 0.5
"""Percent of the values that are cut off at each end if there are outliers."""


def draw_histogram(title: str, values_of: Mapping[str, np.ndarray], unit: str = "") -> Html | None:
    """A histogram with shares in percent of each split, or None without values. values_of: split -> finite values.

    Each whole number gets a bin, or every bin has the same number of them. If the outermost half percent at each end
    takes up most of the width, it is not drawn, and the caption says so.
    """
    import numpy as np

    drawn = {name: np.asarray(values, float) for name, values in values_of.items() if len(values)}
    if not drawn:
        return None
    pooled = np.concatenate(list(drawn.values()))
    low, high = float(pooled.min()), float(pooled.max())
    if low == high:
        return tag(
            "figure",
            tag("figcaption", _make_caption(title, unit)),
            tag("p", f"{numbers.format_reading(low)} in all {numbers.format_whole(len(pooled))}", class_="muted small"),
            class_="curve",
        )
    inner = tuple(float(x) for x in np.percentile(pooled, (TAIL, 100 - TAIL)))
    cut = (high - low) > 2 * (inner[1] - inner[0]) > 0
    if cut:
        low, high = inner
    whole = bool((pooled == np.round(pooled)).all())
    edges = _choose_edges(low, high, whole)
    share_of = {name: 100 * np.histogram(values, edges)[0] / len(values) for name, values in drawn.items()}
    x = Axis(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    y = make_axis([0.0, max(float(s.max()) for s in share_of.values())], HEIGHT - BOTTOM, TOP, zero=True, about=3)
    lines = [
        _draw_outline(edges, share, i, x, y, filled=len(share_of) == 1) for i, share in enumerate(share_of.values())
    ]
    spoken = f"{title}: " + "; ".join(
        f"{name or 'all'} from {numbers.format_reading(v.min())} to {numbers.format_reading(v.max())}"
        for name, v in drawn.items()
    )
    picture = tag(
        "svg", _draw_frame(x, y, whole), *lines, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=spoken
    )
    name = _make_caption(title, f"{unit}, the middle {100 - 2 * TAIL:g} %".lstrip(", ") if cut else unit)
    return tag("figure", tag("figcaption", name, _draw_legend(drawn)), picture, class_="curve")


def _make_caption(title: str, words: str) -> Html:
    return tag("span", tag("strong", title), tag("span", f" {words}", class_="muted") if words else None)


def _choose_edges(low: float, high: float, whole: bool) -> np.ndarray:
    import numpy as np

    if whole:
        step = max(1, -(-int(high - low + 1) // BINS))
        return np.arange(low, high + step + 1, step) - 0.5
    return np.linspace(low, high, BINS + 1)


def _draw_outline(edges: np.ndarray, share: np.ndarray, index: int, x: Axis, y: Axis, filled: bool) -> Html:
    corners = [
        (edges[0], 0.0),
        *((edge, s) for left, right, s in zip(edges, edges[1:], share, strict=False) for edge in (left, right)),
        (edges[-1], 0.0),
    ]
    points = " ".join(f"{x.place(float(a)):.1f},{y.place(float(b)):.1f}" for a, b in corners)
    area = tag("polygon", points=points, class_="area") if filled else None
    return tag("g", area, tag("polyline", points=points, class_="line"), class_=f"s{index % 6}")


def _draw_frame(x: Axis, y: Axis, whole: bool) -> Html:
    """Grid lines labelled in percent, and values under the axis."""
    parts = []
    for value in y.list_ticks(3):
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y.place(value), y2=y.place(value), class_="grid"))
        parts.append(tag("text", f"{value:g} %", x=LEFT - 6, y=y.place(value) + 4, text_anchor="end"))
    floor = HEIGHT - BOTTOM
    for value in (t for t in x.list_ticks(4) if not whole or t == int(t)):
        at = x.place(value)
        anchor = "start" if at < LEFT + 8 else "end" if at > WIDTH - RIGHT - 12 else "middle"
        parts.append(tag("line", x1=at, x2=at, y1=floor, y2=floor + 4, class_="axis"))
        parts.append(
            tag(
                "text", numbers.format_tick(value, max(abs(x.low), abs(x.high))), x=at, y=HEIGHT - 6, text_anchor=anchor
            )
        )
    parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor, class_="axis"))
    return join(parts)


def _draw_legend(drawn: Mapping[str, np.ndarray]) -> Html:
    """Each split's color and dash, with its median."""
    import numpy as np

    entries = []
    for i, (name, values) in enumerate(drawn.items()):
        line = tag("g", tag("line", x1=0, x2=18, y1=5, y2=5, class_="line"), class_=f"s{i % 6}")
        key = tag("svg", line, width=18, height=10, aria_hidden="true") if len(drawn) > 1 else None
        entries.append(
            tag(
                "span",
                key,
                f"{name} median " if len(drawn) > 1 else "median ",
                tag("b", numbers.format_reading(float(np.median(values)))),
            )
        )
    return tag("span", *entries, class_="legend")
