"""The methods of a stage that the training loop calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from medvlm.core.stage_config import Optim
from medvlm.train.accumulate import Update
from medvlm.train.terms import Measured, Terms


class Stage(Protocol):
    """A stage, as the training loop sees it. A prepared sample has a `key`. A micro-batch is whatever `make_micros`
    returns and `compute_loss` accepts. `step` counts the steps of the stage from 0."""

    model: nn.Module
    own_updates: tuple[str, ...]
    """Patterns of parameters and buffers that the stage changes without an optimizer, in `after_step` or in the forward
    pass (a code book). They do not count as trained, and are left out of the check that frozen parts do not change."""

    def list_optimizers(self) -> Mapping[str, Optim]:
        """Name -> settings, each with its own schedule and gradient clipping. "" is the default optimizer; others are
        OptimOf, which names their trained parameters."""

    def make_extra_models(self) -> dict[str, nn.Module]:
        """Name -> further model, such as an average of the weights or a teacher. Each is moved to the device and saved
        in the checkpoint as `models.NAME.*`. Called once, after the starting weights are loaded and before the model is
        placed, so a copy made here is a copy of the starting weights."""

    def read_batches(self, consumed: int) -> Iterator[tuple[int, list[Any]]]:
        """Yields (global position, prepared samples of this rank) for each step, starting at position `consumed`."""

    def measure_usage(self, consumed: int) -> dict[str, tuple[int, float]]:
        """Source -> its number of samples among the first `consumed`, and the number of epochs that these are."""

    def count(self, prepared: list[Any]) -> Terms:
        """Terms about this rank's samples of a step, and about samples dropped since the last step."""

    def make_micros(self, prepared: list[Any], count: int) -> list[Any]:
        """The micro-batches of a step, on the CPU."""

    def plan_updates(self, micros: list[Any], step: int) -> Sequence[Update]:
        """The optimizer updates to make with these micro-batches, in order; at least one."""

    def weigh(self, micro: Any) -> dict[str, float]:
        """Loss -> weight of the micro-batch, such as its number of trained tokens or pairs, known before the forward
        pass. Names the losses of all updates, the same on every rank and for every micro-batch, with 0 for a loss to
        which it adds nothing."""

    def compute_loss(self, model: nn.Module, micro: Any, step: int) -> Measured:
        """The losses of the micro-batch by name, each a sum over its items, on the engine's device, and further terms
        to log. A stage with one loss calls it `loss`."""

    def after_step(self, step: int) -> None:
        """Called without gradients after all updates of a step."""

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """Terms over this rank's share of the validation samples. They include `loss`; lower is better."""

    def matches(self, parameter: str, pattern: str) -> bool: ...

    def group_of(self, parameter: str) -> str: ...

    def set_modes(self) -> None:
        """Sets train or eval mode of every module. Called once; `validate` must restore the modes."""
