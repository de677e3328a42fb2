"""Bars: a result with its interval and baselines, and how often each answer occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medvlm.report import numbers
from medvlm.report.markup import Child, Html, tag
from medvlm.report.scales import Axis, make_axis

SHAPES = (
    "M-4.5 4L0 -4.5L4.5 4Z",
    "M-3.8 -3.8H3.8V3.8H-3.8Z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
    "M-4.5 -4L0 4.5L4.5 -4Z",
    "M-4.2 0A4.2 4.2 0 1 0 4.2 0A4.2 4.2 0 1 0 -4.2 0Z",
)
"""Outlines around (0, 0). Baselines differ in shape, not in color."""
HEIGHT = 36


def shape_of(name: str, names: Sequence[str]) -> Html:
    """The outline that marks a baseline."""
    return tag("path", d=SHAPES[list(names).index(name) % len(SHAPES)], class_="mark")


def draw_bar(
    value: float, ci: Sequence[float] | None, baselines: Mapping[str, float], names: Sequence[str], axis: Axis
) -> Html:
    """A bar from zero with a whisker, and a tick with an outline for each baseline.

    axis: in percent of the width. names: all baselines of the page, so that each always has the same outline.
    Coordinates are percentages, so the bar is as wide as its column and its text is never stretched.
    """
    parts = [
        tag("line", x1=_format_position(axis, t), x2=_format_position(axis, t), y1=0, y2=HEIGHT, class_="grid")
        for t in axis.list_ticks()
    ]
    zero, end = axis.place(0), axis.place(value)
    parts.append(
        tag(
            "rect",
            x=f"{min(zero, end):.2f}%",
            width=f"{abs(end - zero):.2f}%",
            y=10,
            height=16,
            rx=2,
            class_="bar-fill",
        )
    )
    if ci:
        low, high = _format_position(axis, ci[0]), _format_position(axis, ci[1])
        parts.append(tag("line", x1=low, x2=high, y1=18, y2=18, class_="whisker"))
        parts += [tag("line", x1=x, x2=x, y1=13, y2=23, class_="whisker") for x in (low, high)]
    shown = sorted(baselines, key=list(names).index)
    for i, name in enumerate(shown):
        x = _format_position(axis, baselines[name])
        # Baselines are often equal (a blind model gives the majority answer), so each outline has its own height.
        y = HEIGHT * (i + 0.5) / len(shown)
        parts.append(tag("line", x1=x, x2=x, y1=1, y2=HEIGHT - 1, class_="base"))
        parts.append(
            tag(
                "svg",
                tag("title", f"{name} {numbers.format_value(baselines[name])}"),
                shape_of(name, names),
                x=x,
                y=y,
                class_="mark",
            )
        )
    spoken = f"{numbers.format_value(value)} ({numbers.format_interval(ci)})" + "".join(
        f", {n} {numbers.format_value(baselines[n])}" for n in shown
    )
    return tag("svg", *parts, class_="bar", height=HEIGHT, role="img", aria_label=spoken)


def choose_bar_axis(values: Sequence[float]) -> Axis:
    """0 to 1 for shares; otherwise from zero (or the smallest negative value) to the largest value. Bars always start
    at zero."""
    if all(0 <= v <= 1 for v in values):
        return Axis(0, 1, 0, 100)
    return make_axis([0.0, *values], 0, 100, zero=True)


def draw_bar_ruler(axis: Axis) -> Html:
    """The numbers under a block of bars that share an axis."""
    labels = []
    for t in axis.list_ticks():
        anchor = "start" if axis.place(t) < 1 else "end" if axis.place(t) > 99 else "middle"
        labels.append(tag("text", numbers.format_tick(t), x=_format_position(axis, t), y=11, text_anchor=anchor))
    return tag("svg", *labels, class_="bar ruler-svg", aria_hidden="true")


def draw_baseline_key(name: str, names: Sequence[str], value: float) -> Html:
    outline = tag("svg", shape_of(name, names), viewBox="-6 -6 12 12", class_="key mark", aria_hidden="true")
    return tag("span", outline, f"{name} {numbers.format_value(value)}")


def draw_shares(counts: Mapping[str, int], most: int = 6) -> Html:
    """The most common answers as bars of their share, and one bar for all others."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [_draw_share(answer, n, total) for answer, n in ordered[:most]]
    if rest := ordered[most:]:
        rows.append(_draw_share(tag("span", f"{len(rest)} others", class_="rest"), sum(n for _, n in rest), total))
    return tag("div", *rows)


def _draw_share(label: Child, n: int, total: int) -> Html:
    fill = tag("i", style=f"width:{100 * n / total:.1f}%")
    return tag(
        "div",
        tag("span", label),
        fill,
        tag("span", f"{n:,} \N{MIDDLE DOT} {100 * n / total:.0f} %", class_="num"),
        class_="share",
    )


def _format_position(axis: Axis, value: float) -> str:
    return f"{min(100.0, max(0.0, axis.place(value))):.2f}%"
