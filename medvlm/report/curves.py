"""Curves as inline SVG, sharp in print. page.js zooms into the same points; a plotting library would add megabytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medvlm.report import numbers
from medvlm.report.markup import Html, join, tag
from medvlm.report.page import make_data
from medvlm.report.scales import Axis, make_axis, wants_log

WIDTH = 300
"""Units of the view box. Narrower than a phone, so that labels are readable there. Wider screens show charts side by
side."""
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24
DRAWN = 400
"""Most points that are drawn for a line."""
HOVERS = 60
KEPT = 1500
"""Most points of a line that can be zoomed into."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """points: (step, value) with increasing steps; values may be NaN or infinite. marks: draw dots joined by a thin
    line."""

    name: str
    points: list[Point]
    marks: bool = False


def draw_curve(title: str, series: list[Series], height: int = 200, x_max: float | None = None) -> Html:
    """A chart of several series over the steps. x_max: the planned number of steps, so that an unfinished stage looks
    unfinished.

    Values that are not finite are left out of the line, and their number is shown under it.
    """
    finite = [Series(s.name, [p for p in s.points if math.isfinite(p[1])], s.marks) for s in series]
    drawn = [s for s in finite if s.points]
    lost = sum(len(a.points) - len(b.points) for a, b in zip(series, finite, strict=True))
    lost_note = (
        tag("p", f"{lost} {'value is' if lost == 1 else 'values are'} not finite and not drawn", class_="warn small")
        if lost
        else None
    )
    values = [y for s in drawn for _, y in s.points]
    log = bool(values) and wants_log(values)
    name = tag("span", tag("strong", title), tag("span", " log scale", class_="muted") if log else None)
    caption = tag("figcaption", name, _draw_legend(drawn))
    if not drawn:
        return tag("figure", caption, lost_note or tag("p", "nothing logged", class_="muted small"), class_="curve")
    steps = [x for s in drawn for x, _ in s.points]
    x = Axis(0, max([*steps, x_max or 0, 1]), LEFT, WIDTH - RIGHT)
    y = make_axis(values, height - BOTTOM, TOP, log=log, about=max(2, height // 45))
    lines = (_draw_line(s, i, x, y) for i, s in enumerate(drawn))
    picture = tag(
        "svg", _draw_frame(x, y, height), _draw_hovers(drawn, x, height), *lines,
        viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=_describe_series(title, drawn),
    )  # fmt: skip
    zoomed = make_data({"lines": [_list_kept(s) for s in drawn], "end": x.high, "log": log})
    return tag("figure", zoomed, caption, picture, lost_note, class_="curve")


def _list_kept(series: Series) -> dict[str, Any]:
    points = thin(series.points, KEPT)
    steps = [float(x) for x, _ in points]
    values = [float(f"{y:.4g}") for _, y in points]
    return {"xs": [int(x) if x.is_integer() else x for x in steps], "ys": values, "marks": series.marks}


def _draw_frame(x: Axis, y: Axis, height: int) -> Html:
    """Grid lines with their labels."""
    parts = []
    ticks = y.list_ticks(max(2, height // 45))
    for value in ticks:
        at = y.place(value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(
            tag("text", numbers.format_tick(value, max(map(abs, ticks))), x=LEFT - 6, y=at + 4, text_anchor="end")
        )
    for value in (t for t in x.list_ticks(5) if t == int(t)):
        at = x.place(value)
        parts.append(tag("line", x1=at, x2=at, y1=height - BOTTOM, y2=height - BOTTOM + 4, class_="axis"))
        # The last label ends at the edge instead of crossing it.
        anchor = "end" if at > WIDTH - RIGHT - 12 else "middle"
        parts.append(
            tag(
                "text",
                numbers.format_tick(value),
                x=min(at, WIDTH - 2.0) if anchor == "middle" else WIDTH - 2,
                y=height - 6,
                text_anchor=anchor,
            )
        )
    parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=height - BOTTOM, y2=height - BOTTOM, class_="axis"))
    return join(parts)


def _draw_line(series: Series, index: int, x: Axis, y: Axis) -> Html:
    points = thin(series.points)
    colour = f"s{index % 6}"
    if series.marks:
        dots = (
            tag(
                "circle",
                tag("title", f"{series.name}, step {a:g}: {numbers.format_reading(b)}"),
                cx=x.place(a),
                cy=y.place(b),
                r=3.2,
            )
            for a, b in points
        )
        return tag("g", _draw_polyline(points, x, y, "joined"), *dots, class_=f"{colour} marks")
    if len(points) < 60:
        return tag("g", _draw_polyline(points, x, y, "line"), _draw_single_point(points, x, y), class_=colour)
    return tag(
        "g", _draw_polyline(points, x, y, "raw"), _draw_polyline(smooth(series.points), x, y, "line"), class_=colour
    )


def _draw_polyline(points: list[Point], x: Axis, y: Axis, kind: str) -> Html:
    return tag("polyline", points=" ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in points), class_=kind)


def _draw_single_point(points: list[Point], x: Axis, y: Axis) -> Html | None:
    """A dot, if the line has a single point and would be invisible."""
    return tag("circle", cx=x.place(points[0][0]), cy=y.place(points[0][1]), r=2.5) if len(points) == 1 else None


def thin(points: list[Point], most: int = DRAWN) -> list[Point]:
    """At most `most` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return points
    stretch = math.ceil(len(points) / (most // 2))
    kept = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


def smooth(points: list[Point], most: int = 120) -> list[Point]:
    """Running mean over a twentieth of the points."""
    reach = max(1, len(points) // 40)
    total = [0.0]
    for _, value in points:
        total.append(total[-1] + value)
    out = []
    for i in range(0, len(points), max(1, len(points) // most)):
        out.append(_average_around(i, reach, points, total))
    return out if out[-1][0] == points[-1][0] else [*out, _average_around(len(points) - 1, reach, points, total)]


def _average_around(i: int, reach: int, points: list[Point], total: list[float]) -> Point:
    # Near the start the window is symmetric; otherwise the first steep steps would be pulled down. At the end it keeps
    # its reach to the left, because a mean of one point would be as noisy as the point.
    back = min(reach, i)
    stop = min(i + back, len(points) - 1) + 1
    return points[i][0], (total[stop] - total[i - back]) / (stop - i + back)


def _draw_hovers(series: list[Series], x: Axis, height: int) -> Html:
    """Invisible vertical bands whose tooltip shows the value of every line at that step."""
    longest = max((s.points for s in series if not s.marks), key=len, default=[])
    if not longest:
        return Html()
    picked = longest[:: max(1, math.ceil(len(longest) / HOVERS))]
    at = {s.name: dict(s.points) for s in series}
    bands = []
    for (step, _), after in zip(picked, [*picked[1:], (longest[-1][0], 0.0)], strict=True):
        read = [f"{name} {numbers.format_reading(values[step])}" for name, values in at.items() if step in values]
        band = tag("title", f"step {step:g}: " + ", ".join(read))
        bands.append(
            tag(
                "rect",
                band,
                x=x.place(step),
                y=TOP,
                width=max(1.0, x.place(after[0]) - x.place(step)),
                height=height - TOP - BOTTOM,
                class_="hover",
            )
        )
    return join(bands)


def _draw_legend(series: list[Series]) -> Html:
    """Each line's color and dash, with its last value."""
    entries = []
    for i, s in enumerate(series):
        line = tag("line", x1=0, x2=18, y1=5, y2=5, class_="joined" if s.marks else "line")
        dot = tag("circle", cx=9, cy=5, r=3.2) if s.marks else None
        key = tag(
            "svg",
            tag("g", line, dot, class_=f"s{i % 6}" + (" marks" if s.marks else "")),
            width=18,
            height=10,
            aria_hidden="true",
        )
        entries.append(
            tag(
                "span",
                key if len(series) > 1 else None,
                s.name if len(series) > 1 else "last",
                " ",
                tag("b", numbers.format_reading(s.points[-1][1])),
            )
        )
    return tag("span", *entries, class_="legend")


def _describe_series(title: str, series: list[Series]) -> str:
    parts = [
        f"{s.name} from {numbers.format_reading(s.points[0][1])} to {numbers.format_reading(s.points[-1][1])}"
        for s in series
    ]
    return (
        f"{title} over steps {min(s.points[0][0] for s in series):g} to {max(s.points[-1][0] for s in series):g}: "
        + "; ".join(parts)
    )
