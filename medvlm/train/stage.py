"""What a stage adds to the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from medvlm.core.stage_config import Optim
from medvlm.train.accumulate import Update
from medvlm.train.terms import Measured, Terms


class Stage(Protocol):
    """A prepared sample has a `key`; a micro-batch is whatever `micros` makes and `loss` takes. `step` counts the steps
    of the stage from 0."""

    model: nn.Module
    own_updates: tuple[str, ...]
    """Patterns of parameters and buffers of the model that the stage itself moves, in `after_step` or in the forward
    pass (a code book): they are no trained part, and the proof that frozen parts stay as they are leaves them out."""

    def list_optimizers(self) -> Mapping[str, Optim]:
        """Name -> settings, each with its own schedule and bound of the gradient. "" is the default one; the others are
        OptimOf and say which trained parameters are theirs."""

    def make_extra_models(self) -> dict[str, nn.Module]:
        """Models beside the one that is trained (an average of its weights, a teacher): each is on the device, and in
        the checkpoint as `models.NAME.*`. Called once, when the starting weights are in and nothing has been placed, so
        that a copy made here is a copy of the start."""

    def read_batches(self, consumed: int) -> Iterator[tuple[int, list[Any]]]:
        """This rank's prepared samples step by step, beginning at a global position."""

    def measure_usage(self, consumed: int) -> dict[str, tuple[int, float]]:
        """Source -> how many of the first `consumed` samples are its, and how many rounds through it these are."""

    def count(self, prepared: list[Any]) -> Terms:
        """Terms of this rank's samples of a step, and of what it left out since the last step."""

    def make_micros(self, prepared: list[Any], count: int) -> list[Any]:
        """The step's micro-batches, on the CPU."""

    def plan_updates(self, micros: list[Any], step: int) -> Sequence[Update]:
        """The optimizer steps that are made with these micro-batches, in order; at least one."""

    def weigh(self, micro: Any) -> dict[str, float]:
        """Loss -> what the micro-batch counts in it: trained tokens, pairs. Known before the forward pass. Names the
        losses of all updates, the same for every micro-batch on every rank, 0 where it has nothing for one."""

    def compute_loss(self, model: nn.Module, micro: Any, step: int) -> Measured:
        """Losses of the micro-batch by name, each a sum over its items on the engine's device, and what else is
        logged. A stage with one loss calls it `loss`."""

    def after_step(self, step: int) -> None:
        """Called without gradients when all updates of a step are made."""

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """On this rank's share of the validation samples; holds `loss`, lower is better."""

    def matches(self, parameter: str, pattern: str) -> bool: ...

    def group_of(self, parameter: str) -> str: ...

    def set_modes(self) -> None:
        """Which modules train and which only evaluate; called once, `validate` leaves them as they are."""
