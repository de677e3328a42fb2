"""Several rewards as one number: their weighted mean over those that can judge the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.config import list_permitted
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Truth
from medvlm.core.tasks import find_task, list_tasks
from medvlm.rewards._config import dump_rewards, find_reward, read_rewards


class Composer:
    """rewards: name (a file of medvlm/rewards, a task, or `package.module` of a plugin) -> weight above 0, or settings
    with a weight.

    Weights count relative to each other, and only among the rewards that apply: with {choice: 0.8, boxes: 0.8,
    format: 0.2} a choice is judged by `choice` and `format`, 0.8 to 0.2, so every truth can reach 1.
    Raises RecipeError for a reward that is not there (with the nearest name), whose package is not permitted, or whose
    settings are wrong.
    """

    def __init__(self, rewards: Mapping[str, Any]) -> None:
        self.configs, problems = read_rewards(rewards, list_permitted())
        for problem in problems:
            raise RecipeError(f"{'.'.join(map(str, ('rewards', *problem.path)))}: {problem}")
        self.weights = {name: config.weight for name, config in self.configs.items()}
        self._judges = {name: find_reward(name) for name in self.configs}

    def applies(self, truth: Truth) -> bool:
        """Whether any of the rewards can judge an answer to that truth."""
        return any(self.judges(name, truth) for name in self.weights)

    def judges(self, name: str, truth: Truth) -> bool:
        """Whether one of the rewards can: they are paid for texts, not for what a decoder gives."""
        if find_task(truth.task).ANSWERED_BY != "text":
            return False
        return bool(self._judges[name].applies(truth, self.configs[name]))

    def list_judged_tasks(self) -> tuple[str, ...]:
        """Tasks with an example that some reward can judge."""
        own = (name for name, judge in self._judges.items() if "." in name and judge.is_task)
        return tuple(
            kind
            for kind in (*list_tasks(), *own)
            if any(self.applies(truth) for _, truth, _ in find_task(kind).EXAMPLES)
        )

    def score(self, completion: str, truth: Truth) -> tuple[float, dict[str, float]]:
        """The weighted mean in [0, 1], and the score of each reward that applies.

        Raises RecipeError when none applies to the truth, or when one leaves [0, 1].
        """
        parts = {
            name: float(judge.score(completion, truth, self.configs[name]))
            for name, judge in self._judges.items()
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

    def to_json(self) -> dict[str, Any]:
        """What makes this composer again."""
        return dump_rewards(self.configs)
