"""Maps values to positions on an axis, and chooses its ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` to positions from `start` to `end`. A y axis has start > end, because SVG's y
    axis points down."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, v = (
            (math.log10(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (v - low) / (high - low) * (self.end - self.start)

    def list_ticks(self, about: int = 4) -> list[float]:
        return _list_log_ticks(self.low, self.high) if self.log else _list_linear_ticks(self.low, self.high, about)


def make_axis(
    values: list[float], start: float, end: float, *, log: bool = False, zero: bool = False, about: int = 4
) -> Axis:
    """An axis that covers all values and starts and ends at a tick. zero: start at 0 unless a value is negative.

    values: finite, and positive with `log`. If all values are equal, the axis extends to both sides.
    """
    low, high = min(values), max(values)
    if log:
        low, high = (low, high) if low < high else (low / 2, high * 2)
        # Whole decades would waste much of the height for values that span 1.5 decades.
        steps = [
            m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
        ]
        return Axis(
            max(s for s in [*steps, low] if s <= low), min(s for s in [*steps, high] if s >= high), start, end, log=True
        )
    low = min(low, 0.0) if zero else low
    if low == high:
        low, high = (low - 1, high + 1) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    step = _choose_step(low, high, about)
    return Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


def wants_log(values: list[float], ratio: float = 30) -> bool:
    """Whether a linear axis would squeeze most values together at the bottom."""
    return min(values) > 0 and max(values) / min(values) > ratio


def _choose_step(low: float, high: float, about: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides the range into about `about` parts."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    return min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))


def _list_linear_ticks(low: float, high: float, about: int) -> list[float]:
    step = _choose_step(low, high, about)
    first = math.ceil(low / step - 1e-9)
    # Rounded, so that 3 * 0.1 is written as 0.3.
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _list_log_ticks(low: float, high: float) -> list[float]:
    decades = math.log10(high / low)
    parts = (1, 2, 5) if decades <= 2 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [m * 10.0**e for e in powers for m in parts if low * 0.999 <= m * 10.0**e <= high * 1.001]
    every = max(1, math.ceil(len(inside) / 6))
    return inside[::every]
