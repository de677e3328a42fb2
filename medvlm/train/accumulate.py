"""Accumulates the gradient of one update over micro-batches, and finds their number for `accumulate: auto`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from medvlm.core.errors import RecipeError
from medvlm.train.terms import Measured, Name, Term, Terms, join, share_of_loss, to_terms

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

LossOf = Callable[[nn.Module, Any, int], Measured]
"""Model, micro-batch and step -> losses and terms of the micro-batch."""


@dataclass(frozen=True)
class Update:
    """One step of one optimizer on the micro-batches of a step of the loop.

    optimizer: its name. loss: the function to minimize; by default `compute_loss` of the stage. Gradients of parameters
    that belong to other optimizers are dropped.
    """

    optimizer: str = ""
    loss: LossOf | None = None


class Summable(Protocol):
    """The part of the Stage protocol that one step needs, see train/stage.py."""

    def make_micros(self, prepared: list[Any], count: int) -> list[Any]: ...

    def weigh(self, micro: Any) -> dict[str, float]: ...

    def plan_updates(self, micros: list[Any], step: int) -> Sequence[Update]: ...

    def compute_loss(self, model: nn.Module, micro: Any, step: int) -> Measured: ...


@dataclass(frozen=True)
class Fitted:
    """A step split so that it fits into memory, with the terms of its first update. count: micro-batches per rank."""

    micros: list[Any]
    updates: Sequence[Update]
    weights: dict[str, float]
    terms: Terms
    count: int


def sum_weights(stage: Summable, micros: Sequence[Any], engine: Engine) -> dict[str, float]:
    """Loss -> its weight over all micro-batches and ranks. Called on every rank."""
    own = [stage.weigh(micro) for micro in micros]
    names = sorted(own[0])
    assert all(sorted(weights) == names for weights in own), (
        f"every micro-batch has to name the weights of the same losses, with 0 for a loss it does not have: {own}"
    )
    totals = engine.sum_over_ranks([sum(weights[name] for weights in own) for name in names])
    return dict(zip(names, totals, strict=True))


def accumulate(
    loss_of: LossOf,
    model: nn.Module,
    micros: Sequence[Any],
    engine: Engine,
    weights: dict[str, float],
    step: int,
    kept_local: int | None = None,
) -> Terms:
    """Accumulates the gradient of the sum over losses of (sum / weight), each over all ranks and micro-batches.

    weights: of the whole step (see `sum_weights`). kept_local: the number of passes that do not exchange
    gradients; by default all but the last. Returns the terms of all micro-batches.
    """
    terms: dict[Name, Term] = {}
    kept_local = len(micros) - 1 if kept_local is None else kept_local
    for i, micro in enumerate(micros):
        with engine.defer_sync(enabled=i < kept_local):
            measured = loss_of(model, micro, step)
            engine.backward(share_of_loss(measured, weights))
        join(terms, to_terms(measured))
        del measured  # frees the graph of this micro-batch before the next one is built
    return terms


def accumulate_what_fits(
    stage: Summable, model: nn.Module, prepared: list[Any], engine: Engine, count: int, step: int
) -> Fitted:
    """The first update of a step with `count` micro-batches, or with more if any rank runs out of memory.

    Ranks communicate before and after the passes, never within, so that a rank that runs out of memory blocks no other:
    all of them try again with smaller micro-batches. Gradients are therefore exchanged at the end, not during the
    backward pass. Raises RecipeError if single samples do not fit.
    """
    while True:
        random = get_random_state(engine.device)
        micros, updates, terms = None, None, None
        with suppress(torch.OutOfMemoryError):
            micros = stage.make_micros(prepared, count)
        if not engine.sum_over_ranks([micros is None])[0]:
            assert micros is not None
            updates, weights = stage.plan_updates(micros, step), sum_weights(stage, micros, engine)
            with suppress(torch.OutOfMemoryError):
                terms = accumulate(
                    updates[0].loss or stage.compute_loss, model, micros, engine, weights, step, len(micros)
                )
            if not engine.sum_over_ranks([terms is None])[0]:
                assert terms is not None
                engine.reduce()
                return Fitted(micros, updates, weights, terms, count)
        micros = updates = None  # frees their tensors before the next attempt
        engine.drop()
        set_random_state(random, engine.device)
        count = _find_next_count(count, len(prepared), engine)


def _find_next_count(count: int, samples: int, engine: Engine) -> int:
    """The next larger number of micro-batches that divides this rank's samples, at least twice `count` if possible."""
    if engine.device.type == "cuda":
        torch.cuda.empty_cache()
    larger = [n for n in range(count + 1, samples + 1) if samples % n == 0]
    if not larger:
        raise RecipeError(
            "out of memory with one sample at a time; use engine.recompute, a smaller model or images, or"
            f" {'offload' if engine.is_sharded else 'engine.kind fsdp2'}"
        )
    found = next((n for n in larger if n >= 2 * count), larger[0])
    if engine.is_first:
        print(
            f"  out of memory with {samples // count} samples at a time; from here on {samples // found} ({found}"
            " micro-batches a step on each rank)",
            flush=True,
        )
    return found


RandomState = tuple[torch.Tensor, torch.Tensor | None]


def get_random_state(device: torch.device) -> RandomState:
    """Of the CPU, and of the device if it is a GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: RandomState, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
