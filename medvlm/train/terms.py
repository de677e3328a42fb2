"""Losses that are trained, terms that are logged, and control signals, each summed over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

LOSS = "loss"
"""The name of the loss of a stage with only one. It is the loss of the step, so it is not logged again as a term."""
TOKENS = "tokens"
"""The term that throughput is computed from."""


@dataclass(frozen=True)
class Loss:
    """A term that is trained: its sum over the items of a micro-batch, with the gradient, and the weight of these items
    (tokens, pairs).

    The loss of a step is, term by term, the sum of the sums divided by the sum of the weights, both over all ranks and
    micro-batches. A factor on a term is part of its sum.
    """

    sum: torch.Tensor
    weight: float


class Term(NamedTuple):
    """A term that is only logged: the mean over all ranks and micro-batches, or, with weight 0, a plain sum."""

    sum: float
    weight: float = 0.0

    def plus(self, other: Term) -> Term:
        return Term(self.sum + other.sum, self.weight + other.weight)


@dataclass(frozen=True)
class OfSource:
    """The name of a term that belongs to one source of data."""

    source: str
    what: str


Name = str | OfSource
Terms = Mapping[Name, Term]
Measured = Mapping[Name, Loss | Term]
"""What a stage returns for a micro-batch; at least one Loss."""


@dataclass(frozen=True)
class Signals:
    """Control signals of a step, summed over the ranks.

    stop: ranks that were asked to stop. unsaved: ranks whose last checkpoint could not be saved. order: hashes of the
    samples of the step. due: above 0 if the first rank finds that it is time to save.
    """

    stop: float = 0.0
    unsaved: float = 0.0
    order: float = 0.0
    due: float = 0.0


@dataclass(frozen=True)
class Report:
    """The results of a step or a validation, over all ranks. losses: name -> mean of a trained term. sources: source ->
    name -> mean."""

    losses: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    sources: dict[str, dict[str, float]] = field(default_factory=dict)
    signals: Signals = Signals()

    @property
    def loss(self) -> float:
        return reduce(add, self.losses.values())

    def to_json(self) -> dict[str, float]:
        """All terms by name, including the losses of a stage with several."""
        return {**self.terms, **{name: value for name, value in self.losses.items() if name != LOSS}}


def to_terms(measured: Measured) -> dict[Name, Term]:
    """Turns losses into terms, without gradients."""
    return {
        name: Term(float(term.sum.detach()), term.weight) if isinstance(term, Loss) else term
        for name, term in measured.items()
    }


def share_of_loss(measured: Measured, weights: Mapping[str, float]) -> torch.Tensor:
    """The contribution of a micro-batch to the loss of the step, with its gradient. weights: loss -> its weight in the
    whole step."""
    losses = losses_of(measured)
    assert losses.keys() <= weights.keys(), f"losses {list(losses)}, but weights of {list(weights)}"
    return reduce(add, (loss.sum / max(weights[name], 1.0) for name, loss in losses.items()))


def sum_of_losses(measured: Measured) -> torch.Tensor:
    """The sum of all losses of a micro-batch without their weights, as a starting point for a backward pass."""
    return reduce(add, (loss.sum for loss in losses_of(measured).values()))


def losses_of(measured: Measured) -> dict[str, Loss]:
    """The losses among the measured values."""
    found = {name: term for name, term in measured.items() if isinstance(term, Loss) and isinstance(name, str)}
    assert found, f"a stage has to return at least one Loss, found {list(measured)}"
    return found


def join(into: dict[Name, Term], terms: Terms) -> None:
    """Adds terms to those of the same name in `into`."""
    for name, term in terms.items():
        into[name] = into.get(name, Term(0.0)).plus(term)


def report(terms: Terms, losses: Iterable[str], engine: Engine, signals: Signals = Signals()) -> Report:
    """Sums terms over all ranks. A rank may lack a term, such as a reward that judged none of its
    answers.

    losses: the names of the trained terms, the same on every rank. Called on every rank.
    """
    own = {_split_name(name): (term.sum, term.weight) for name, term in terms.items()}
    of_signals, of_names = engine.sum_by_name(astuple(signals), own)
    found = Report(signals=Signals(*of_signals))
    of_losses = set(losses)
    for (source, what), (total, weight) in of_names.items():
        value = total / weight if weight else total
        if source:
            found.sources.setdefault(source, {})[what] = value
        else:
            (found.losses if what in of_losses else found.terms)[what] = value
    return found


def _split_name(name: Name) -> tuple[str, str]:
    return ("", name) if isinstance(name, str) else (name.source, name.what)
