"""When something happens, such as death or progression, to patients of whom some are only followed for a time.

An answer is a dictionary: `risk`, a number that is higher for whom it comes sooner, and, of decoders that know it,
`times` with the probabilities `alive` that it has not happened by then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, OfItems
from medvlm.core.sample import Medium
from medvlm.core.tasks import Drawing
from medvlm.tasks._made_up import make_question

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Truth(sample.Truth):
    """event: what may happen. time: from the image to it, or to the last time that the patient was seen without it.
    occurred: which of the two. horizons: the times at which answers are evaluated, in the same unit."""

    event: str = ""
    time: float = 0.0
    occurred: bool = False
    horizons: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time) and self.time >= 0):
            raise DataError(f"the time to {self.event or 'an event'} is {self.time}; expected a number from 0 on")
        if not self.answer:
            said = f"{self.event} after {self.time:g}" if self.occurred else f"no {self.event} for {self.time:g}"
            object.__setattr__(self, "answer", said)


class Config(Base):
    kind: Literal["survival"]
    event: str = Field(min_length=1)
    """What may happen. The `answer` of the question is a time and whether it happened then, e.g. "{days} {died}"."""
    yes: tuple[str, ...] = ("1", "yes", "true")
    no: tuple[str, ...] = ("0", "no", "false")
    """It had not happened yet when the patient was seen last."""
    horizons: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Times for which evaluation has AUROC and Brier score, e.g. [365, 730]."""

    @property
    def classes(self) -> tuple[str, ...]:
        return (self.event,)


ANSWERED_BY = "survival"
TITLE = "Survival"
GROUP = "survival"


def from_text(text: str, config: Config) -> Truth | None:
    """None for anything but a time and a word of `yes` or `no`."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)[\s,;]+(\S.*)", text)
    if not found:
        return None
    word = re.sub(r"\.0+$", "", found[2].strip().casefold())
    forms = {each.casefold(): happened for happened in (True, False) for each in (config.no, config.yes)[happened]}
    if word not in forms:
        return None
    return Truth(event=config.event, time=float(found[1]), occurred=forms[word], horizons=config.horizons)


# --- between survival and a decoder -----------------------------------------------------------------


def target(truth: Truth, masks: Mapping[str, np.ndarray], classes: Sequence[str], exclusive: bool) -> np.ndarray:
    """float32 [2]: the time, and 1 if it happened then."""
    import numpy as np

    if (truth.event,) != tuple(classes):
        raise DataError(f"is about {truth.event}, and the decoder predicts {', '.join(classes)}; set its `classes`")
    return np.array([truth.time, truth.occurred], np.float32)


def decode(found: np.ndarray, truth: Truth, classes: Sequence[str], exclusive: bool) -> dict[str, Any]:
    """found: [1], a risk, or [2, J]: times, and the probability that it has not happened by then. Of the latter, the
    risk is minus the mean time to the event, up to the last one."""
    if found.ndim == 1:
        return {"risk": float(found[0])}
    times, alive = [0.0, *found[0].tolist()], [1.0, *found[1].tolist()]
    spans = zip(times, times[1:], alive, alive[1:], strict=False)
    mean = sum((end - start) * (first + last) / 2 for start, end, first, last in spans)
    return {"risk": -round(mean, 6), "times": times[1:], "alive": [round(p, 6) for p in alive[1:]]}


def parse(answer: Any, truth: Truth) -> dict[str, Any] | None:
    """None for what has no risk, or probabilities that are none."""
    if not isinstance(answer, dict) or not _are_numbers([answer.get("risk")]):
        return None
    times, alive = answer.get("times", []), answer.get("alive", [])
    if not (_are_numbers(times) and _are_numbers(alive) and len(times) == len(alive)):
        return None
    return answer if all(0 <= p <= 1 for p in alive) and times == sorted(times) else None


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def find_alive(answer: Mapping[str, Any], by: float) -> float | None:
    """The probability that it has not happened by a time, with a straight line between the times that the answer has,
    and no change after the last one; None if it has no probabilities."""
    times, alive = [0.0, *answer.get("times", [])], [1.0, *answer.get("alive", [])]
    if len(times) == 1:
        return None
    for start, end, first, last in zip(times, times[1:], alive, alive[1:], strict=False):
        if start <= by <= end and end > start:
            return float(first + (last - first) * (by - start) / (end - start))
    return float(alive[-1])


# --- score and measures -----------------------------------------------------------------------------


def score(answer: Any, truth: Truth) -> float:
    """1 - the mean squared distance of the probability to live beyond each horizon from whether that was so, over those
    horizons of which it is known; 0 for an answer that has no probabilities."""
    found, told = parse(answer, truth), []
    for by in truth.horizons if found else ():
        alive = find_alive(found or {}, by)
        if alive is not None and (truth.time > by or truth.occurred):
            told.append(1 - (alive - (truth.time > by)) ** 2)
    return sum(told) / len(told) if told else 0.0


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> dict[str, Any]:
    """The same probabilities for everybody: those of Kaplan and Meier at the horizons. A constant risk orders nobody,
    so its C-index and AUROC are 0.5."""
    from medvlm.metrics.survival import estimate_survival

    times = sorted({by for truth in truths for by in truth.horizons})
    alive = estimate_survival([truth.time for truth in truths], [truth.occurred for truth in truths], times)
    return {"risk": 0.0, "times": times, "alive": [round(p, 6) for p in alive]}


def _list_risk(answer: Any, truth: Truth) -> tuple[float, ...]:
    """An answer that cannot be read says nothing: the risk of everybody."""
    found = parse(answer, truth)
    return (found["risk"] if found else 0.0, truth.time, float(truth.occurred))


def _list_risk_of_all(answer: Any, truth: Truth) -> dict[str, tuple[float, ...]]:
    """One class, so that patients of several questions, whose risks have other scales, are not compared."""
    return {"": _list_risk(answer, truth)}


def _list_risk_by(answer: Any, truth: Truth) -> dict[str, tuple[float, ...]]:
    return {f"{by:g}": (*_list_risk(answer, truth), by) for by in truth.horizons}


def _list_alive_by(answer: Any, truth: Truth) -> dict[str, tuple[float, ...]]:
    """Without the horizons for which the answer has no probability; one that cannot be read is certain, and wrong."""
    found, columns = parse(answer, truth), dict[str, tuple[float, ...]]()
    for by in truth.horizons:
        alive = find_alive(found, by) if found else float(truth.time <= by)
        if alive is not None:
            columns[f"{by:g}"] = (alive, truth.time, float(truth.occurred), by)
    return columns


def _concordance(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.survival import concordance

    return concordance(items_NK, times_RN)


def _auroc_by(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.survival import auroc_by

    return auroc_by(items_NK, times_RN)


def _brier_by(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.survival import brier_by

    return brier_by(items_NK, times_RN)


def _list_events(items_NK: np.ndarray) -> tuple[np.ndarray, ...]:
    """Those with an event: as many of them as there are decide how wide an interval is."""
    return (items_NK[:, 2] == 1,)


def _list_sides(items_NK: np.ndarray) -> tuple[np.ndarray, ...]:
    """Those who had the event by the horizon, and those who lived longer."""
    is_early = items_NK[:, 1] <= items_NK[:, 3]
    return is_early & (items_NK[:, 2] == 1), ~is_early


_BY = Measure("auroc_by", GROUP, _list_risk_by, statistic=OfItems(_auroc_by), needs=_list_sides, by_template=True,
              by_class=True, words="AUROC by a time")  # fmt: skip
MEASURES = (
    Measure(
        "c_index",
        GROUP,
        _list_risk_of_all,
        statistic=OfItems(_concordance),
        needs=_list_events,
        by_template=True,
        by_class=True,
        headline=True,
        words="C-index",
    ),
    _BY,
    # Weights of those who are left may be large, so it has no upper bound of 1.
    replace(
        _BY,
        metric="brier_by",
        columns=_list_alive_by,
        statistic=OfItems(_brier_by),
        needs=None,
        better="lower",
        bounds=None,
        words="Brier score by a time",
    ),
)


# --- rehearsal and report ---------------------------------------------------------------------------


def make_labelled(
    rng: np.random.Generator, media: Sequence[Medium], classes: Sequence[str], exclusive: bool
) -> tuple[str, Truth, dict[str, np.ndarray]] | None:
    time, occurred = float(rng.integers(1, 1000)), bool(rng.integers(2))
    truth = Truth(event=classes[0], time=time, occurred=occurred, horizons=(300.0, 600.0))
    return make_question(rng, "survival"), truth, {}


def describe(answer: Any, truth: Truth) -> Drawing:
    found = parse(answer, truth)
    told = ""
    if found:
        alive = {by: find_alive(found, by) for by in truth.horizons}
        beyond = [f"{p:.2f} beyond {by:g}" for by, p in alive.items() if p is not None]
        told = ", ".join([f"risk {found['risk']:.3g}", *beyond])
    return Drawing(truth.answer, answer=told)


_EARLY = Truth(event="death", time=200.0, occurred=True, horizons=(365.0, 730.0))
_LATE = Truth(event="death", time=900.0, occurred=True, horizons=(365.0, 730.0))
_LEFT = Truth(event="death", time=400.0, horizons=(365.0, 730.0))

EXAMPLES = [
    ({"risk": 1.0, "times": [365.0, 730.0], "alive": [0.0, 0.0]}, _EARLY, 1.0),
    ({"risk": 1.0, "times": [365.0, 730.0], "alive": [1.0, 1.0]}, _EARLY, 0.0),
    ({"risk": 1.0, "times": [365.0, 730.0], "alive": [1.0, 1.0]}, _LATE, 1.0),
    ({"risk": 1.0, "times": [365.0, 730.0], "alive": [1.0, 0.5]}, _LATE, 0.875),
    ({"risk": 1.0, "times": [730.0], "alive": [0.0]}, _LATE, 0.375),  # a straight line: 0.5 at half of the time
    ({"risk": 1.0, "times": [365.0, 730.0], "alive": [1.0, 0.0]}, _LEFT, 1.0),  # after that, nobody knows
    # No probabilities, or what are none.
    ({"risk": 1.0}, _EARLY, 0.0),
    ({"risk": math.nan, "times": [365.0], "alive": [0.0]}, _EARLY, 0.0),
    ({"risk": 1.0, "times": [365.0], "alive": [2.0]}, _EARLY, 0.0),
    ({"risk": 1.0, "times": [730.0, 365.0], "alive": [0.0, 0.0]}, _EARLY, 0.0),
    ({"times": [365.0], "alive": [0.0]}, _EARLY, 0.0),
    ("death", _EARLY, 0.0),
    (None, _EARLY, 0.0),
]
