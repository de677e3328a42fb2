"""Reliability curves as inline SVG: how often a class is there, against how probable the model calls it."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm.core.tasks import Decision
from medvlm.report import numbers
from medvlm.report.curves import LEFT, RIGHT, TOP, WIDTH
from medvlm.report.markup import Html, join, tag
from medvlm.report.scales import Axis

PLOT = 220
"""Height of the plot in units of the view box; the numbers of labels are below it."""
HEIGHT = PLOT + 50


def draw_reliability(title: str, decisions: Sequence[Decision]) -> Html:
    """A point for each bin that has labels: its mean probability and its share of positives. decisions: at least
    one."""
    from medvlm.metrics.calibration import BINS, find_bin

    bins: list[list[Decision]] = [[] for _ in range(BINS)]
    for decision in decisions:
        bins[find_bin(decision.probability)].append(decision)
    x, y = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, PLOT, TOP)
    points = [(_average(b, "probability"), _average(b, "is_there"), len(b)) for b in bins if b]
    error = sum(n * abs(p - share) for p, share, n in points) / len(decisions)
    line = " ".join(f"{x.place(p):.1f},{y.place(share):.1f}" for p, share, _ in points)
    dots = (
        tag(
            "circle",
            tag("title", f"mean probability {p:.2f}, {share:.2f} are there, n {numbers.format_whole(n)}"),
            cx=x.place(p),
            cy=y.place(share),
            r=3.2,
        )
        for p, share, n in points
    )
    marks = tag("g", tag("polyline", points=line, class_="joined"), *dots, class_="s0 marks")
    spoken = f"{title}: " + "; ".join(f"probability {p:.2f}, share {share:.2f}, n {n}" for p, share, n in points)
    picture = tag(
        "svg", _draw_frame(x, y, list(map(len, bins))), marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
        aria_label=spoken,
    )  # fmt: skip
    legend = tag(
        "span",
        tag("span", "calibration error ", tag("b", numbers.format_value(error))),
        tag("span", "n ", tag("b", numbers.format_whole(len(decisions)))),
        class_="legend",
    )
    return tag("figure", tag("figcaption", tag("strong", title), legend), picture, class_="curve")


def _average(decisions: Sequence[Decision], name: str) -> float:
    return sum(float(getattr(decision, name)) for decision in decisions) / len(decisions)


def _draw_frame(x: Axis, y: Axis, counts: Sequence[int]) -> Html:
    """Grid, diagonal, both scales, and the number of labels under each bin."""
    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y.place(value), y2=y.place(value), class_="grid"))
        parts.append(tag("text", numbers.format_tick(value), x=LEFT - 6, y=y.place(value) + 4, text_anchor="end"))
        anchor = "end" if value == 1 else "middle"
        parts.append(tag("text", numbers.format_tick(value), x=x.place(value), y=PLOT + 16, text_anchor=anchor))
    parts.append(tag("line", x1=x.place(0), y1=y.place(0), x2=x.place(1), y2=y.place(1), class_="axis"))
    width = 1 / len(counts)
    parts.append(tag("text", "n", x=LEFT - 6, y=PLOT + 40, text_anchor="end"))
    for number, count in enumerate(counts):
        parts.append(tag("text", _shorten(count), x=x.place((number + 0.5) * width), y=PLOT + 40, text_anchor="middle"))
    return join(parts)


def _shorten(count: int) -> str:
    """Fits under a bin."""
    return str(count) if count < 1000 else f"{count / 1000:.1f}k" if count < 10_000 else f"{count / 1000:.0f}k"
