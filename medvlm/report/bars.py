"""Bars: a headline number with its interval beside its baselines, and how often each answer occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medvlm.report import numbers
from medvlm.report.markup import Child, Html, tag
from medvlm.report.scales import Axis, axis_over

SHAPES = (
    "M-4.5 4L0 -4.5L4.5 4Z",
    "M-3.8 -3.8H3.8V3.8H-3.8Z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
    "M-4.5 -4L0 4.5L4.5 -4Z",
    "M-4.2 0A4.2 4.2 0 1 0 4.2 0A4.2 4.2 0 1 0 -4.2 0Z",
)
"""Outlines around (0, 0): baselines are told apart by shape, not by colour."""
HEIGHT = 36


def shape_of(name: str, names: Sequence[str]) -> Html:
    """The little outline that marks a baseline."""
    return tag("path", d=SHAPES[list(names).index(name) % len(SHAPES)], class_="mark")


def bar(
    value: float, ci: Sequence[float] | None, baselines: Mapping[str, float], names: Sequence[str], axis: Axis
) -> Html:
    """A bar from zero with a whisker, and a tick with an outline for each baseline.

    axis: in percent of the width. names: all baselines of the page, so that each keeps its outline. Coordinates are
    percentages, so the bar is as wide as its column and the text in it is never stretched.
    """
    parts = [tag("line", x1=_pc(axis, t), x2=_pc(axis, t), y1=0, y2=HEIGHT, class_="grid") for t in axis.ticks()]
    zero, end = axis.at(0), axis.at(value)
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
        low, high = _pc(axis, ci[0]), _pc(axis, ci[1])
        parts.append(tag("line", x1=low, x2=high, y1=18, y2=18, class_="whisker"))
        parts += [tag("line", x1=x, x2=x, y1=13, y2=23, class_="whisker") for x in (low, high)]
    shown = sorted(baselines, key=list(names).index)
    for i, name in enumerate(shown):
        x = _pc(axis, baselines[name])
        # Baselines often coincide (a blind model answers the majority): each outline has a height of its own.
        y = HEIGHT * (i + 0.5) / len(shown)
        parts.append(tag("line", x1=x, x2=x, y1=1, y2=HEIGHT - 1, class_="base"))
        parts.append(
            tag(
                "svg",
                tag("title", f"{name} {numbers.value(baselines[name])}"),
                shape_of(name, names),
                x=x,
                y=y,
                class_="mark",
            )
        )
    spoken = f"{numbers.value(value)} ({numbers.interval(ci)})" + "".join(
        f", {n} {numbers.value(baselines[n])}" for n in shown
    )
    return tag("svg", *parts, class_="bar", height=HEIGHT, role="img", aria_label=spoken)


def bar_axis(values: Sequence[float]) -> Axis:
    """0 to 1 for shares; otherwise from zero (or below it) to the largest value. Bars never start elsewhere than at
    zero."""
    if all(0 <= v <= 1 for v in values):
        return Axis(0, 1, 0, 100)
    return axis_over([0.0, *values], 0, 100, zero=True)


def bar_ruler(axis: Axis) -> Html:
    """The numbers under a block of bars that share an axis."""
    labels = []
    for t in axis.ticks():
        anchor = "start" if axis.at(t) < 1 else "end" if axis.at(t) > 99 else "middle"
        labels.append(tag("text", numbers.tick(t), x=_pc(axis, t), y=11, text_anchor=anchor))
    return tag("svg", *labels, class_="bar ruler-svg", aria_hidden="true")


def baseline_key(name: str, names: Sequence[str], value: float) -> Html:
    outline = tag("svg", shape_of(name, names), viewBox="-6 -6 12 12", class_="key mark", aria_hidden="true")
    return tag("span", outline, f"{name} {numbers.value(value)}")


def shares(counts: Mapping[str, int], most: int = 6) -> Html:
    """The commonest answers as bars of their share, and how many others there are."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [_share(answer, n, total) for answer, n in ordered[:most]]
    if rest := ordered[most:]:
        rows.append(_share(tag("span", f"{len(rest)} others", class_="rest"), sum(n for _, n in rest), total))
    return tag("div", *rows)


def _share(label: Child, n: int, total: int) -> Html:
    fill = tag("i", style=f"width:{100 * n / total:.1f}%")
    return tag(
        "div",
        tag("span", label),
        fill,
        tag("span", f"{n:,} \N{MIDDLE DOT} {100 * n / total:.0f} %", class_="num"),
        class_="share",
    )


def _pc(axis: Axis, value: float) -> str:
    return f"{min(100.0, max(0.0, axis.at(value))):.2f}%"
