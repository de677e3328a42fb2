"""The gradient of one step from its micro-batches, and how many there are when that is left to be found."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from medvlm.core.errors import RecipeError

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

Terms = dict[str, tuple[float, float]]
"""Name -> (sum, weight): what is logged is the sum over ranks and micro-batches of both, divided."""


class Summed(Protocol):
    """What of a stage a step is made of; loop.Stage says more of it."""

    def micros(self, prepared: list[Any], count: int) -> list[Any]: ...

    def weight(self, micro: Any) -> float: ...

    def loss(self, model: nn.Module, micro: Any) -> tuple[torch.Tensor, Terms]: ...


def accumulate(stage: Summed, model: nn.Module, micros: list[Any], engine: Engine) -> Terms:
    """Gradients of (sum of losses / sum of weights over all ranks and micro-batches)."""
    (weight,) = engine.total([sum(stage.weight(m) for m in micros)])
    return _backward(stage, model, micros, engine, weight, kept_local=len(micros) - 1)


def accumulate_what_fits(
    stage: Summed, model: nn.Module, prepared: list[Any], engine: Engine, count: int
) -> tuple[list[Any], Terms, int]:
    """The same with `count` micro-batches, or more where any rank runs out of memory: micro-batches, terms, their
    number.

    The ranks talk before and after the passes, never within: what one cannot do, all do again in smaller parts. So
    gradients are exchanged at the end, not beside the backward pass. Raises RecipeError when single samples do not fit.
    """
    while True:
        random = _random_state(engine)
        micros, terms = None, None
        with suppress(torch.OutOfMemoryError):
            micros = stage.micros(prepared, count)
        if not engine.total([micros is None])[0]:
            assert micros is not None
            (weight,) = engine.total([sum(stage.weight(m) for m in micros)])
            with suppress(torch.OutOfMemoryError):
                terms = _backward(stage, model, micros, engine, weight, kept_local=len(micros))
            if not engine.total([terms is None])[0]:
                assert terms is not None
                engine.reduce()
                return micros, terms, count
        micros = None  # or its tensors would still be there
        engine.drop()
        _set_random_state(random, engine)
        count = _next(count, len(prepared), engine)


def _backward(
    stage: Summed, model: nn.Module, micros: list[Any], engine: Engine, weight: float, kept_local: int
) -> Terms:
    terms: Terms = {}
    for i, micro in enumerate(micros):
        with engine.unsynchronised(enabled=i < kept_local):
            loss, more = stage.loss(model, micro)
            engine.backward(loss / max(weight, 1.0))
        for name, (total, of) in {"loss": (float(loss.detach()), stage.weight(micro)), **more}.items():
            before = terms.get(name, (0.0, 0.0))
            terms[name] = (before[0] + total, before[1] + of)
    return terms


def _next(count: int, samples: int, engine: Engine) -> int:
    """The next number of micro-batches that this rank's samples can be shared by, at least twice as many where there is
    one."""
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


def _random_state(engine: Engine) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(engine.device) if engine.device.type == "cuda" else None


def _set_random_state(state: tuple[torch.Tensor, torch.Tensor | None], engine: Engine) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], engine.device)
