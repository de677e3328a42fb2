"""Formats numbers for readers, with meaningful digits only."""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"


def format_value(x: float | None) -> str:
    """A result: two decimals below 100 (three if the first two are zero), one below 1000, none above."""
    if x is None:
        return "\N{EN DASH}"
    if not math.isfinite(x):
        return "not a number" if math.isnan(x) else f"{MINUS if x < 0 else ''}\N{INFINITY}"
    size = abs(x)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 0.01 or size == 0 else 3
    return _add_sign(f"{x:.{digits}f}") if size >= 0.0005 or size == 0 else _add_sign(f"{x:.1e}")


def format_interval(ci: Sequence[float] | None) -> str:
    return f"{format_value(ci[0])} to {format_value(ci[1])}" if ci else "no interval"


def format_tick(x: float, largest: float = 1) -> str:
    """An axis label: 0.25, 20k, 3e-4. largest: of the axis. If it is below 0.01, all labels have powers of ten."""
    size = abs(x)
    if size >= 1e6:
        return _add_sign(f"{x / 1e6:g}M")
    if size >= 1e4:
        return _add_sign(f"{x / 1e3:g}k")
    if size == 0 or (size >= 1e-3 and abs(largest) >= 0.01):
        return _add_sign(f"{x:.10g}")
    mantissa, power = f"{x:.1e}".split("e")
    return _add_sign(f"{float(mantissa):g}e{int(power)}")


def format_reading(x: float) -> str:
    """A value of a curve, with three significant digits."""
    return format_value(x) if not math.isfinite(x) else format_tick(float(f"{x:.3g}"))


def format_whole(n: int | float) -> str:
    return f"{int(n):,}"


def format_parameters(n: int | float) -> str:
    """1.24 M, 7.6 B. Callers show the exact count as a tooltip."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {letter}"
    return str(int(n))


def format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _add_sign(written: str) -> str:
    return written.replace("-", MINUS)
