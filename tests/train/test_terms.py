"""Losses of several terms, each over its own weight, compared with gradients computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.engine_config import EngineConfig
from medvlm.train.accumulate import accumulate, sum_weights
from medvlm.train.engine import Engine
from medvlm.train.terms import Loss, Measured, OfSource, Signals, Term, join, report


class Stage:
    """A micro-batch is (values of one loss, values of another); the model multiplies by w."""

    def weigh(self, micro: Any) -> dict[str, float]:
        return {"a": len(micro[0]), "b": len(micro[1])}

    def compute_loss(self, model: nn.Module, micro: Any, step: int) -> Measured:
        a, b = (model.weight.squeeze() * torch.tensor(values, dtype=torch.float32) for values in micro)
        terms: dict[Any, Loss | Term] = {"b": Loss(step * b.square().sum(), len(b)), "seen": Term(len(a) + len(b))}
        if len(a):
            terms["a"] = Loss(a.sum(), len(a))
        return terms


@pytest.fixture
def engine() -> Engine:
    return Engine(EngineConfig(kind="single", device="cpu"))


@pytest.fixture
def model(engine: Engine) -> nn.Module:
    made = nn.Linear(1, 1, bias=False)
    nn.init.constant_(made.weight, 3.0)
    return engine.setup(made, {"": torch.optim.SGD(made.parameters(), lr=1.0)})


MICROS = [([1.0, 2.0, 6.0], [1.0]), ([], [2.0, 3.0, 4.0]), ([5.0], [0.0])]


def test_the_gradient_of_each_term_is_that_of_its_own_mean(engine: Engine, model: nn.Module) -> None:
    """d/dw of mean(a w) + step mean((b w)^2) at w = 3: 14/4 + 2 * (2 * 3 * 30/5); in one micro-batch or in three."""
    stage = Stage()
    whole = [([x for a, _ in MICROS for x in a], [x for _, b in MICROS for x in b])]
    for micros in (MICROS, whole):
        weights = sum_weights(stage, micros, engine)  # type: ignore[arg-type]
        assert weights == {"a": 4, "b": 5}
        terms = accumulate(stage.compute_loss, model, micros, engine, weights, step=2)
        assert engine.model.weight.grad.item() == pytest.approx(14 / 4 + 2 * 2 * 3 * 30 / 5, rel=1e-6)
        found = report(terms, weights, engine)
        assert found.losses == pytest.approx({"a": 3 * 14 / 4, "b": 2 * 9 * 30 / 5})
        assert found.loss == pytest.approx(3 * 14 / 4 + 2 * 9 * 30 / 5) and found.terms == {"seen": 9}
        engine.drop()


def test_one_term_is_divided_before_the_backward_pass(engine: Engine, model: nn.Module) -> None:
    """With one loss, the gradient is that of (sum / weight), bit by bit."""
    micros = [([0.1, 0.7, 0.3], [1.0]), ([0.9, 0.11], [1.0])]

    def only_a(model: nn.Module, micro: Any, step: int) -> Measured:
        a = model.weight.squeeze() * torch.tensor(micro[0])
        return {"loss": Loss(a.sin().sum(), len(a))}

    accumulate(only_a, model, micros, engine, {"loss": 5.0}, step=0)
    found, engine.model.weight.grad = engine.model.weight.grad, None
    for a, _ in micros:
        ((engine.model.weight.squeeze() * torch.tensor(a)).sin().sum() / 5.0).backward()
    assert torch.equal(found, engine.model.weight.grad)


def test_micro_batches_have_to_weigh_the_same_losses(engine: Engine) -> None:
    class Forgetful(Stage):
        def weigh(self, micro: Any) -> dict[str, float]:
            return {name: weight for name, weight in super().weigh(micro).items() if weight}

    with pytest.raises(AssertionError, match="every micro-batch has to name the weights of the same losses"):
        sum_weights(Forgetful(), MICROS, engine)  # type: ignore[arg-type]


def test_a_loss_without_a_weight_is_named(engine: Engine, model: nn.Module) -> None:
    with pytest.raises(AssertionError, match=r"losses \['b', 'a'\], but weights of \['b'\]"):
        accumulate(Stage().compute_loss, model, MICROS, engine, {"b": 5.0}, step=1)


def test_a_report_keeps_terms_sources_and_signals_apart(engine: Engine) -> None:
    terms: dict[Any, Term] = {}
    join(terms, {"hits": Term(3, 4), OfSource("vqa", "loss"): Term(2.0, 4), OfSource("vqa", "tokens"): Term(4)})
    join(terms, {"hits": Term(1, 4), OfSource("reports", "loss"): Term(9.0, 3), "loss": Term(11.0, 7)})
    found = report(terms, ["loss"], engine, Signals(stop=1.0, order=2**40 + 1.0))
    assert found.losses == {"loss": pytest.approx(11 / 7)} and found.terms == {"hits": 0.5}
    assert found.sources == {"vqa": {"loss": 0.5, "tokens": 4.0}, "reports": {"loss": 3.0}}
    assert found.signals == Signals(stop=1.0, unsaved=0.0, order=2**40 + 1.0) and found.to_json() == {"hits": 0.5}
