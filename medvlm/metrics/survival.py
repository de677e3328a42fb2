"""How well risks and probabilities of survival fit times of which some are censored: whoever was last seen without an
event says only that it came later, if at all.

Each is a metric of `OfItems`: times_RN says how often each draw holds an item, and the result is float64 [R], NaN where
a draw does not define it. Axes: N items, R draws of them, G groups of items with equal times, from the earliest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PAIRS_AT_ONCE = 1 << 22


def concordance(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """Harrell's C: of the pairs of patients of whom one had the event while the other was still under observation, the
    share in which that one has the higher risk; equal risks count one half.

    items_NK: columns (risk, time, 1 for an event and 0 for last seen without). Two events at the same time are no pair;
    an event and a last visit at the same time are one, as in lifelines and scikit-survival. NaN without a pair.
    Source: Harrell et al. 1982, https://doi.org/10.1001/jama.1982.03320430047030.
    """
    risk_N, time_N, happened_N = items_NK[:, 0], items_NK[:, 1], items_NK[:, 2] == 1
    ordered_R, pairs_R = np.zeros(len(times_RN)), np.zeros(len(times_RN))
    events = np.flatnonzero(happened_N)
    size = max(1, _PAIRS_AT_ONCE // len(items_NK))
    for at in range(0, len(events), size):
        e = events[at : at + size, None]
        outlives_EN = (time_N > time_N[e]) | ((time_N == time_N[e]) & ~happened_N)
        right_EN = outlives_EN * ((risk_N < risk_N[e]) + 0.5 * (risk_N == risk_N[e]))
        # Counts of pairs: whole numbers and halves, exact in float64, whatever the order of the sum.
        own_RE = times_RN[:, e[:, 0]]
        pairs_R += (own_RE * (times_RN @ outlives_EN.T.astype(float))).sum(axis=1)
        ordered_R += (own_RE * (times_RN @ right_EN.T)).sum(axis=1)
    return np.divide(ordered_R, pairs_R, out=np.full(len(times_RN), np.nan), where=pairs_R > 0)


def auroc_by(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """The probability that a patient who has had the event by a time has a higher risk than one who lived longer; equal
    risks count one half. Patients last seen before are left out, and those with an event weigh 1 / G(their time), G the
    probability to be still under observation then.

    items_NK: columns (risk, time, event, the time by which; the same for all). NaN without both kinds of patients.
    Source: Uno et al. 2007, https://doi.org/10.1198/016214507000000149, as scikit-survival's cumulative_dynamic_auc,
    with G just before the event, and from the same patients.
    """
    risk_N, time_N, happened_N, by = items_NK[:, 0], items_NK[:, 1], items_NK[:, 2] == 1, items_NK[0, 3]
    before_RN, _ = _find_observed(time_N, happened_N, times_RN, by)
    died_N, alive_N = (time_N <= by) & happened_N, time_N > by
    cases_RN = np.divide(times_RN, before_RN, out=np.zeros_like(before_RN), where=died_N & (before_RN > 0))
    order_N = np.argsort(risk_N, kind="stable")
    sorted_N = risk_N[order_N]
    starts_G = np.flatnonzero(np.append(True, sorted_N[1:] != sorted_N[:-1]))
    cases_RG = np.add.reduceat(cases_RN[:, order_N], starts_G, axis=1)
    alive_RG = np.add.reduceat((times_RN * alive_N)[:, order_N], starts_G, axis=1)
    below_RG = np.cumsum(alive_RG, axis=1) - alive_RG
    ordered_R = (cases_RG * (below_RG + alive_RG / 2)).sum(axis=1)
    pairs_R = cases_RG.sum(axis=1) * alive_RG.sum(axis=1)
    return np.divide(ordered_R, pairs_R, out=np.full(len(times_RN), np.nan), where=pairs_R > 0)


def brier_by(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """The mean squared distance of the probability to live beyond a time from whether that was so. Patients last seen
    before add nothing; the others weigh 1 / G as in auroc_by, those who lived longer with G at that time.

    items_NK: columns (probability, time, event, the time; the same for all).
    Source: Graf et al. 1999, https://doi.org/10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5.
    """
    alive_N, time_N, happened_N, by = items_NK[:, 0], items_NK[:, 1], items_NK[:, 2] == 1, items_NK[0, 3]
    before_RN, at_R = _find_observed(time_N, happened_N, times_RN, by)
    died_N, lived_N = (time_N <= by) & happened_N, time_N > by
    weights_RN = np.divide(1.0, before_RN, out=np.zeros_like(before_RN), where=died_N & (before_RN > 0))
    of_lived_R = np.divide(1.0, at_R, out=np.zeros_like(at_R), where=at_R > 0)
    weights_RN += of_lived_R[:, None] * lived_N
    errors_N = (alive_N - lived_N) ** 2
    return (times_RN * weights_RN * errors_N).sum(axis=1) / times_RN.sum(axis=1)


def estimate_survival(times: Sequence[float], happened: Sequence[bool], at: Sequence[float]) -> list[float]:
    """The probability to live beyond each of the times `at` (Kaplan and Meier 1958)."""
    time_N, event_N = np.array(times, dtype=float), np.array(happened, dtype=bool)
    found = []
    for until in at:
        share = 1.0
        for moment in np.unique(time_N[event_N & (time_N <= until)]):
            share *= 1 - (event_N & (time_N == moment)).sum() / (time_N >= moment).sum()
        found.append(float(share))
    return found


def _find_observed(
    time_N: np.ndarray, happened_N: np.ndarray, times_RN: np.ndarray, at: float
) -> tuple[np.ndarray, np.ndarray]:
    """The probability to be still under observation just before each item's time [R, N], and at a time [R]: Kaplan and
    Meier's estimate for the last visits. Whoever has the event at a time is not expected at a later visit then."""
    moments_G, group_N = np.unique(time_N, return_inverse=True)
    order_N = np.argsort(group_N, kind="stable")
    starts_G = np.searchsorted(group_N[order_N], np.arange(len(moments_G)))
    left_RG = np.add.reduceat((times_RN * ~happened_N)[:, order_N], starts_G, axis=1)
    events_RG = np.add.reduceat((times_RN * happened_N)[:, order_N], starts_G, axis=1)
    there_RG = np.cumsum((left_RG + events_RG)[:, ::-1], axis=1)[:, ::-1] - events_RG
    stay_RG = 1 - np.divide(left_RG, there_RG, out=np.zeros_like(left_RG), where=there_RG > 0)
    after_RG = np.cumprod(stay_RG, axis=1)
    before_RG = np.concatenate([np.ones((len(times_RN), 1)), after_RG], axis=1)
    number = int(np.searchsorted(moments_G, at, side="right"))
    return before_RG[:, group_N], before_RG[:, number]
