"""How far counts are off, and whether they go up and down with the truth.

An answer that names no number, or several, is not left out: its error is max(1, the true number), where the
reward for counts is 0 as well; for the correlation it is a 0. How many there were is a metric of its own.
"""

from __future__ import annotations

import numpy as np

from medvlm.answers.count import parse
from medvlm.core.sample import Truth


def error(answer: str, truth: Truth) -> float:
    """|found - true|."""
    found, true = parse(answer), _true(truth)
    return float(max(1, true) if found is None else abs(found - true))


def exact(answer: str, truth: Truth) -> float:
    return float(parse(answer) == _true(truth))


def unreadable(answer: str, truth: Truth) -> float:
    return float(parse(answer) is None)


def moments(answer: str, truth: Truth) -> tuple[float, ...]:
    """(1, x, y, xx, yy, xy) of the found x and the true y: their sums over questions give the correlation."""
    x, y = float(parse(answer) or 0), float(_true(truth))
    return 1.0, x, y, x * x, y * y, x * y


def correlation(totals_RK: np.ndarray) -> np.ndarray:
    """Pearson's r from sums of `moments`, [R, 6] -> [R]; 0 where either side is constant: a constant tells nothing
    apart."""
    n, x, y, xx, yy, xy = np.asarray(totals_RK, dtype=np.float64).T
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    # Sums of squares are exact below 2^53; above, what is left of a constant's spread is rounding.
    varies = (spread_x > 1e-12 * n * xx) & (spread_y > 1e-12 * n * yy)
    r = (n * xy - x * y) / np.sqrt(np.where(varies, spread_x * spread_y, 1.0))
    return np.where(varies, np.clip(r, -1, 1), 0.0)


def _true(truth: Truth) -> int:
    assert truth.count is not None, truth
    return truth.count
