"""Losses of grades, numbers and survival against their equations in float64, term by term, forward and gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from tests.objectives.test_heads import check_same

EDGES = (2.0, 3.0, 4.5)
TIMES = (
    # Apart from each other; with ties of events, and of an event with a last visit; the last two are censored.
    (5.0, 1.5, 3.2, 2.7, 9.0, 0.5),
    (3.0, 3.0, 1.0, 3.0, 1.0, 3.0),
)


def loss_of(kind: str, decoder: Any, logits: torch.Tensor, labels: torch.Tensor, **settings: Any) -> torch.Tensor:
    module = component("objectives.heads", kind)
    config = module.Config(kind=kind, **settings)
    rows = [slice(None)] if getattr(module, "JOINT", False) else []
    total: torch.Tensor = module.add_up(config, logits, labels, decoder, *rows)
    return total / module.weigh(config, labels, decoder)


def decoder_of(kind: str, **settings: Any) -> Any:
    return component("decoders", kind).Config(kind=kind, **settings)


def drawn(*shape: int) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def outcomes(times: tuple[float, ...]) -> torch.Tensor:
    happened = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    return torch.stack([torch.tensor(times), happened], 1)


# --- grades and numbers -------------------------------------------------------------------------------


def test_corn_is_a_classification_for_each_threshold_of_those_above_the_one_before() -> None:
    labels = torch.tensor([0, 3, 1, 2, 3, 0, 1])

    def reference(x: torch.Tensor) -> torch.Tensor:
        terms = []
        for row, grade in enumerate(labels.tolist()):
            for threshold in range(3):
                if grade >= threshold:
                    p = 1 / (1 + (-x[row, threshold]).exp())
                    terms.append(-(p if grade > threshold else 1 - p).log())
        return torch.stack(terms).mean()

    decoder = decoder_of("ordinal", classes=("none", "mild", "severe", "worst"))
    check_same(drawn(7, 3), lambda x: loss_of("corn", decoder, x, labels), reference)


def test_grades_have_probabilities_that_add_up_and_never_rise_from_threshold_to_threshold() -> None:
    module, decoder = component("decoders", "ordinal"), decoder_of("ordinal", classes=("none", "mild", "severe"))
    logits = drawn(50, 2)
    found = module.to_answers(decoder, logits)
    p = logits.sigmoid()
    expected = torch.stack([1 - p[:, 0], p[:, 0] * (1 - p[:, 1]), p[:, 0] * p[:, 1]], 1)
    torch.testing.assert_close(found, expected)
    assert (found >= 0).all()


@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_errors_of_numbers_are_in_units_of_their_spread(delta: float) -> None:
    decoder, labels = decoder_of("quantity", classes=("age",), std=2.0), torch.tensor([[1.0], [0.0], [-7.0]])
    check_same(
        drawn(3, 1),
        lambda x: loss_of("squared_error", decoder, x, labels),
        lambda x: ((x - labels) / 2).square().mean(),
    )

    def reference(x: torch.Tensor) -> torch.Tensor:
        errors = ((x - labels) / 2).abs()
        return torch.where(errors <= delta, errors**2 / 2, delta * (errors - delta / 2)).mean()

    check_same(drawn(3, 1), lambda x: loss_of("huber", decoder, x, labels, delta=delta), reference)


# --- survival -----------------------------------------------------------------------------------------


def partial_likelihood(risk: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Efron's, from its equation: a product over the events of each time, the k-th of which leaves out k of d parts."""
    terms = []
    for time in sorted({t for t, happened in labels.tolist() if happened}):
        dying = [i for i, (t, happened) in enumerate(labels.tolist()) if happened and t == time]
        watched = [i for i, (t, _) in enumerate(labels.tolist()) if t >= time]
        for k, i in enumerate(dying):
            total = risk[watched].exp().sum() - k / len(dying) * risk[dying].exp().sum()
            terms.append(total.log() - risk[i])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("times", TIMES, ids=["apart", "tied"])
def test_cox_is_the_partial_likelihood_of_efron(times: tuple[float, ...]) -> None:
    decoder, labels = decoder_of("proportional_hazards", classes=("death",)), outcomes(times)
    check_same(
        drawn(6, 1),
        lambda x: loss_of("cox", decoder, x, labels),
        lambda x: partial_likelihood(x[:, 0], labels),
    )


def test_cox_by_hand() -> None:
    """The first of two dies: log(e^a + e^b) - a."""
    decoder, labels = decoder_of("proportional_hazards", classes=("death",)), torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    found = loss_of("cox", decoder, torch.tensor([[1.0], [0.5]]), labels)
    assert found.item() == pytest.approx(math.log(math.e + math.exp(0.5)) - 1)


def test_cox_stays_finite_for_extreme_risks_and_without_an_event() -> None:
    module, decoder = component("objectives.heads", "cox"), decoder_of("proportional_hazards", classes=("death",))
    for times, happened in (((3.0, 3.0, 3.0, 1.0), (0, 1, 1, 0)), ((1.0, 2.0, 3.0, 4.0), (0, 0, 0, 0))):
        risk = torch.tensor([[400.0], [-400.0], [0.0], [90.0]], requires_grad=True)
        labels = torch.tensor([times, happened]).T.float()
        total = module.add_up(module.Config(kind="cox"), risk, labels, decoder, slice(0, 4))
        total.backward()
        assert total.isfinite() and risk.grad is not None and risk.grad.isfinite().all()
        assert any(happened) or not risk.grad.any()


def interval_likelihood(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    terms, starts = [], (0.0, *EDGES[:-1])
    for row, (time, happened) in enumerate(labels.tolist()):
        total = torch.zeros((), dtype=logits.dtype)
        for number, (start, end) in enumerate(zip(starts, EDGES, strict=True)):
            hazard = logits[row, number].sigmoid()
            if happened and start < time <= end:
                total = total - hazard.log()
            elif time > end if happened else time >= (start + end) / 2:
                total = total - (1 - hazard).log()
        terms.append(total)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("times", [*TIMES, (2.0, 2.1, 4.5, 4.6, 2.5, 2.49)], ids=["apart", "tied", "edges"])
def test_hazards_in_intervals_have_the_likelihood_of_their_equation(times: tuple[float, ...]) -> None:
    decoder, labels = decoder_of("interval_hazards", classes=("death",), edges=EDGES), outcomes(times)
    check_same(
        drawn(6, 3),
        lambda x: loss_of("discrete_hazards", decoder, x, labels),
        lambda x: interval_likelihood(x, labels),
    )


def test_an_event_on_the_first_day_is_in_the_first_interval() -> None:
    decoder = decoder_of("interval_hazards", classes=("death",), edges=EDGES)
    found = loss_of("discrete_hazards", decoder, torch.zeros(1, 3), torch.tensor([[0.0, 1.0]]))
    assert found.item() == pytest.approx(math.log(2))


def test_survival_falls_by_the_hazard_of_each_interval() -> None:
    module, decoder = (
        component("decoders", "interval_hazards"),
        decoder_of("interval_hazards", classes=("death",), edges=EDGES),
    )
    edges, alive = module.to_answers(decoder, torch.tensor([[0.0, 0.0, math.log(3)]]))[0]
    assert edges.tolist() == list(EDGES) and alive.tolist() == pytest.approx([0.5, 0.25, 0.0625])


@pytest.mark.parametrize("edges", [(3.0, 2.0), (2.0, 2.0), (0.0, 1.0)])
def test_edges_that_do_not_rise_are_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises((ValueError, RecipeError), match="edges"):
        decoder_of("interval_hazards", classes=("death",), edges=edges)
