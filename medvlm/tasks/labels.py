"""Which of some named classes an image shows: one of them, or any number, some of them unknown; a decoder scores each.

An answer is a probability for each class of the truth, in its order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from medvlm.core import sample
from medvlm.core.config import Config as Base
from medvlm.core.decoder_config import MISSING, UNCERTAIN
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, average
from medvlm.core.sample import Medium
from medvlm.core.tasks import Drawing
from medvlm.tasks import _label_measures
from medvlm.tasks._label_measures import find_most_probable, is_positive, list_known, parse
from medvlm.tasks._made_up import make_question

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Truth(sample.Truth):
    """labels: whether it is of each of `classes`, None where nobody knows. exclusive: it is of exactly one of them.
    ordered: the classes are grades, from the lowest to the highest. uncertain: those of unknown label that somebody
    thought of and left open. answer: the names of those that it is of."""

    classes: tuple[str, ...] = ()
    labels: tuple[bool | None, ...] = ()
    exclusive: bool = True
    ordered: bool = False
    uncertain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.classes):
            raise DataError(f"{len(self.labels)} labels of {len(self.classes)} classes; expected one for each")
        if self.exclusive and sum(label is True for label in self.labels) != 1:
            raise DataError(f"is of {self.answer or 'none'} of {', '.join(self.classes)}; expected exactly one")
        if not self.answer:
            names = [name for name, label in zip(self.classes, self.labels, strict=True) if label]
            object.__setattr__(self, "answer", ", ".join(names))

    def to_json(self) -> dict[str, Any]:
        """Without `ordered` and `uncertain` where they say nothing, so that shards stay the same."""
        rare = ("ordered", "uncertain")
        return {name: value for name, value in super().to_json().items() if value or name not in rare}


class Config(Base):
    kind: Literal["labels"]
    classes: tuple[str, ...] = Field(min_length=2)
    exclusive: bool = True
    """An image is of exactly one class; `false`: of any number of them, and a text names them, separated by commas."""
    ordered: bool = False
    """The classes are grades, from the lowest to the highest, such as no, mild and severe retinopathy. Then evaluation
    has the quadratic kappa."""

    @model_validator(mode="after")
    def _orders_one_class(self) -> Config:
        if self.ordered and not self.exclusive:
            raise ValueError("`ordered` with `exclusive: false`; grades exclude each other")
        return self


ANSWERED_BY = "scores"
TITLE = "Labels"
choose_points = _label_measures.choose_points
decide = _label_measures.decide


def from_text(text: str, config: Config) -> Truth | None:
    """None for a text that names another class, and where classes exclude each other for none or several."""
    names = [text] if config.exclusive else [part for each in text.split(",") if (part := each.strip())]
    by_form = {name.casefold(): name for name in config.classes}
    named = {by_form.get(name.casefold()) for name in names}
    if None in named:
        return None
    labels = tuple(name in named for name in config.classes)
    return Truth(classes=config.classes, labels=labels, exclusive=config.exclusive, ordered=config.ordered)


def check(truth: Truth, media: Sequence[Medium]) -> None:
    known = dict(zip(truth.classes, truth.labels, strict=True))
    if wrong := [name for name in truth.uncertain if known.get(name, True) is not None]:
        raise DataError(f"{wrong[0]!r} is uncertain, and not a class of unknown label; correct the archive's reader")
    if not truth.classes or (not _is_known("", truth) and not truth.uncertain):
        raise DataError("labels of which none is known; leave the question out")


# --- between labels and a decoder -------------------------------------------------------------------


def target(truth: Truth, masks: Mapping[str, np.ndarray], classes: Sequence[str], exclusive: bool) -> np.ndarray:
    """int64: the number of its class among those of the decoder where they exclude each other, else [K] of 0, 1,
    MISSING and UNCERTAIN.

    Raises DataError for exclusive classes of which it is none or several, or may be.
    """
    import numpy as np

    known = dict(zip(truth.classes, truth.labels, strict=True))
    labels = [known.get(name) for name in classes]
    if not exclusive:
        unknown = dict.fromkeys(truth.uncertain, UNCERTAIN)
        return np.array(
            [unknown.get(n, MISSING) if y is None else int(y) for n, y in zip(classes, labels, strict=True)]
        )
    if labels.count(True) != 1 or (None in labels and not truth.exclusive):
        raise DataError(
            f"is of {truth.answer or 'none'} ({', '.join(truth.classes)}), and the decoder tells {', '.join(classes)}"
            " apart as classes that exclude each other; list that class, or set `exclusive: false`"
        )
    return np.array(labels.index(True))


def decode(probabilities: np.ndarray, truth: Truth, classes: Sequence[str], exclusive: bool) -> list[float]:
    """probabilities: [K] of the decoder's classes. A class that the decoder does not have is improbable."""
    found = dict(zip(classes, probabilities.tolist(), strict=True))
    return [round(found.get(name, 0.0), 6) for name in truth.classes]


# --- score and measures -----------------------------------------------------------------------------


def score(answer: Any, truth: Truth) -> float:
    """1 where the class is the most probable one, and no other is as probable; of classes that do not exclude each
    other, the share of those known that are told right, with 0.5 between yes and no."""
    found = parse(answer, truth)
    if found is None:
        return 0.0
    if truth.exclusive:
        return float(find_most_probable(found) == truth.labels.index(True))
    told = [is_positive(p, name, {}) == label for name, p, label in list_known(answer, truth)]
    return sum(told) / len(told) if told else 0.0


def _is_known(template: str, truth: Truth) -> bool:
    """Whether any of its labels is known."""
    return any(label is not None for label in truth.labels)


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> list[float]:
    """How often each class is there where that is known, which has the best Brier score: the commonest is the most
    probable. For F1 all classes are there.

    Any constant has an AUROC of 0.5, a kappa and a sensitivity at a given specificity of 0, and the share of positives
    as its average precision.
    """
    (classes, exclusive), _ = Counter((truth.classes, truth.exclusive) for truth in truths).most_common(1)[0]
    if measure is not None and measure.metric in _label_measures.OF_DECISIONS:
        return [1.0] * len(classes)
    alike = [truth.labels for truth in truths if (truth.classes, truth.exclusive) == (classes, exclusive)]
    shares = []
    for labels in zip(*alike, strict=True):
        known = [label for label in labels if label is not None]
        shares.append(round(sum(known) / len(known), 6) if known else 0.0)
    if exclusive:  # of several that are as common, the first
        shares[shares.index(max(shares))] = min(1.0, max(shares) + 1e-6)
    return shares


MEASURES = (
    Measure("accuracy", _label_measures.GROUP, average(score), _is_known, by_template=True, headline=True),
    *_label_measures.MEASURES,
)


# --- rehearsal and report ---------------------------------------------------------------------------


def make_labelled(
    rng: np.random.Generator, media: Sequence[Medium], classes: Sequence[str], exclusive: bool
) -> tuple[str, Truth, dict[str, np.ndarray]] | None:
    if exclusive:
        one = int(rng.integers(len(classes)))
        labels = tuple(number == one for number in range(len(classes)))
    else:
        labels = tuple(bool(label) for label in rng.integers(0, 2, len(classes)))
    return make_question(rng, "labels"), Truth(classes=tuple(classes), labels=labels, exclusive=exclusive), {}


def describe(answer: Any, truth: Truth) -> Drawing:
    found = parse(answer, truth)
    told = ", ".join(f"{name} {p:.2f}" for name, p in zip(truth.classes, found, strict=True)) if found else ""
    unknown = {name for name, label in zip(truth.classes, truth.labels, strict=True) if label is None}
    asides = {"not known": unknown - {*truth.uncertain}, "uncertain": unknown & {*truth.uncertain}}
    aside = "; ".join(
        f"{what}: {', '.join(name for name in truth.classes if name in of)}" for what, of in asides.items() if of
    )
    confused = None
    if found and truth.exclusive:
        confused = truth.answer, truth.classes[found.index(max(found))]
    return Drawing(truth.answer or "none", aside=aside, answer=told, told=confused)


_SIDE = Truth(classes=("ap", "pa"), labels=(True, False))
_CELL = Truth(classes=("RBC", "WBC", "Platelets"), labels=(False, True, False))
_MANY = Truth(classes=("edema", "effusion", "fracture"), labels=(True, False, None), exclusive=False)
_OTHER = Truth(classes=("edema", "effusion", "fracture"), labels=(False, None, True), exclusive=False)

EXAMPLES = [
    ([0.9, 0.1], _SIDE, 1.0),
    ([0.4, 0.6], _SIDE, 0.0),
    ([0.2, 0.5, 0.3], _CELL, 1.0),
    ([0.6, 0.1, 0.0], _MANY, 1.0),
    ([0.6, 0.1, 1.0], _MANY, 1.0),
    ([0.6, 0.7, 0.0], _MANY, 0.5),
    ([0.1, 0.9, 0.5], _MANY, 0.0),
    ([0.2, 0.9, 0.7], _OTHER, 1.0),
    # All classes at once, none of them, and what is no probability.
    ([1.0, 1.0], _SIDE, 0.0),
    ([0.5, 0.5], _SIDE, 0.0),
    ([0.0, 0.0, 0.0], _CELL, 0.0),
    ([1.0, 1.0, 1.0], _MANY, 0.5),
    ([2.0, 0.0], _SIDE, 0.0),
    ([math.nan, 0.1], _SIDE, 0.0),
    ([0.9], _SIDE, 0.0),
    ([0.9, 0.1, 0.0], _SIDE, 0.0),
    ("ap", _SIDE, 0.0),
    (None, _SIDE, 0.0),
]
