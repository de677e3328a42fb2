"""Several rewards as one number: their weighted mean over those that can judge the truth."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import ModuleType

from medvlm.core.config import component, kinds
from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.sample import Truth


class Composer:
    """weights: reward name (a file of medvlm/rewards, or `package.module` of a plugin) -> weight above 0.

    Weights count relative to each other, and only among the rewards that apply: with {choice: 0.8, boxes: 0.8,
    format: 0.2} a choice is judged by `choice` and `format`, 0.8 to 0.2, so every truth can reach 1.
    Raises RecipeError for a reward that is not there (with the nearest name) and for a weight that is not positive.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not weights:
            raise RecipeError(
                "rewards: empty, expected at least one with a weight, e.g. {choice: 0.8, format: 0.2} (accepts"
                f" {', '.join(kinds('rewards'))})"
            )
        for name, weight in weights.items():
            if not (isfinite(weight) and weight > 0):
                raise RecipeError(
                    f"rewards.{name}: found weight {weight}, expected a number above 0; leave out a reward that should"
                    " not count"
                )
        self.weights = dict(weights)
        self._modules = {name: _reward(name) for name in weights}

    def applies(self, truth: Truth) -> bool:
        """Whether any of the rewards can judge an answer to that truth."""
        return any(self.judges(name, truth) for name in self.weights)

    def judges(self, name: str, truth: Truth) -> bool:
        """Whether one of the rewards can."""
        return bool(self._modules[name].applies(truth))

    def score(self, completion: str, truth: Truth) -> tuple[float, dict[str, float]]:
        """The weighted mean in [0, 1], and the score of each reward that applies.

        Raises RecipeError when none applies to the truth, or when one leaves [0, 1].
        """
        parts = {
            name: float(module.score(completion, truth))
            for name, module in self._modules.items()
            if self.judges(name, truth)
        }
        if not parts:
            raise RecipeError(
                f"rewards: none of {', '.join(self.weights)} can judge an answer of task {truth.task!r}; "
                "add one that can, or leave this task out of the stage's `tasks`"
            )
        for name, part in parts.items():
            if not 0 <= part <= 1:
                raise RecipeError(f"rewards.{name}: scored {part} for {completion[:80]!r}, expected a number in [0, 1]")
        whole = sum(self.weights[name] for name in parts)
        return sum(self.weights[name] / whole * part for name, part in parts.items()), parts


def _reward(name: str) -> ModuleType:
    accepted = kinds("rewards")
    if "." not in name and name not in accepted:
        raise RecipeError(
            f"rewards.{name}: unknown reward{did_you_mean(name, accepted)} (accepts {', '.join(accepted)})"
        )
    try:
        return component("rewards", name)
    except ModuleNotFoundError as missing:
        raise RecipeError(f"rewards.{name}: cannot be imported: {missing}; install the package that holds it") from None
