"""Several rewards as one number: their weighted mean over those that can judge the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medvlm.core.config import list_permitted
from medvlm.core.contracts import Case
from medvlm.core.errors import NoScore, RecipeError
from medvlm.core.sample import Truth
from medvlm.core.tasks import find_task, list_tasks
from medvlm.rewards._config import as_case, dump_rewards, find_reward, read_rewards


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
        self._judges = {name: find_reward(config.kind or name) for name, config in self.configs.items()}

    def applies(self, about: Truth | Case) -> bool:
        """Whether any of the rewards can judge such an answer."""
        return any(self.judges(name, about) for name in self.weights)

    def judges(self, name: str, about: Truth | Case, any_source: bool = False) -> bool:
        """Whether one of the rewards can: they are paid for texts, not for what a decoder gives. any_source: whether
        it is limited to some sources does not matter."""
        case, config = as_case(about), self.configs[name]
        if find_task(case.truth.task).ANSWERED_BY != "text":
            return False
        if config.tasks and case.truth.task not in config.tasks:
            return False
        if config.sources and case.source not in config.sources and not any_source:
            return False
        return bool(self._judges[name].applies(case, config))

    @property
    def needs_image_gain(self) -> bool:
        """Whether some reward asks how much the images matter to an answer."""
        return any(judge.needs_image_gain(self.configs[name]) for name, judge in self._judges.items())

    @property
    def waits(self) -> bool:
        """Whether some reward asks another process."""
        return any(map(self.asks_outside, self.weights))

    def start(self) -> None:
        """Before the first answer. Raises RecipeError if another process that a reward asks is not there."""
        for name, judge in self._judges.items():
            judge.start(self.configs[name])

    def asks_outside(self, name: str) -> bool:
        return self._judges[name].waits(self.configs[name])

    def score_part(self, name: str, completion: str, about: Truth | Case) -> float:
        """The score of one of the rewards, which can judge it. Raises RecipeError if it leaves [0, 1]."""
        part = float(self._judges[name].score(completion, about, self.configs[name]))
        if not 0 <= part <= 1:
            raise RecipeError(f"rewards.{name}: scored {part} for {completion[:80]!r}, expected a number in [0, 1]")
        return part

    def list_judged_tasks(self) -> tuple[str, ...]:
        """Tasks with an example that some reward can judge."""
        own = (name for name, judge in self._judges.items() if "." in name and judge.is_task)
        return tuple(
            kind
            for kind in (*list_tasks(), *own)
            if any(self._judges_any(truth) for _, truth, _ in find_task(kind).EXAMPLES)
        )

    def _judges_any(self, truth: Truth) -> bool:
        asked = Case(truth, question="?")
        return any(self.judges(name, asked, any_source=True) for name in self.weights)

    def score(self, completion: str, about: Truth | Case) -> tuple[float, dict[str, float]]:
        """The weighted mean in [0, 1], and the score of each reward that applies.

        Raises RecipeError when none applies to the truth, or when one leaves [0, 1]; NoScore for one that has none.
        """
        names = self._list_judging(about)
        parts = {name: self.score_part(name, completion, about) for name in names}
        shares = self.share_weights(parts)
        return sum(shares[name] * part for name, part in parts.items()), parts

    def find_parts(self, completion: str, about: Truth | Case) -> dict[str, float | None]:
        """The score of each reward that applies, None for one that has none. Raises RecipeError like score()."""
        return {name: self._find_part(name, completion, about) for name in self._list_judging(about)}

    def _find_part(self, name: str, completion: str, about: Truth | Case) -> float | None:
        try:
            return self.score_part(name, completion, about)
        except NoScore:
            return None

    def weigh_group(self, found: Sequence[Mapping[str, float | None]]) -> list[tuple[float, dict[str, float]]]:
        """As score(), of all answers to one question. found: of each, from find_parts(). A reward that has no score of
        one of them is left out for all, because they are compared with each other; 0 if none is left."""
        names = [name for name in (found[0] if found else ()) if all(parts[name] is not None for parts in found)]
        shares = self.share_weights(names)
        kept = [{name: float(parts[name] or 0.0) for name in names} for parts in found]
        return [(sum(shares[name] * part for name, part in parts.items()), parts) for parts in kept]

    def _list_judging(self, about: Truth | Case) -> list[str]:
        """The rewards that can judge such an answer. Raises RecipeError if there is none."""
        names = [name for name in self.weights if self.judges(name, about)]
        if not names:
            case = as_case(about)
            of = f" of source {case.source}" if case.source else ""
            raise RecipeError(
                f"rewards: none of {', '.join(self.weights)} can judge an answer of task {case.truth.task!r}{of}; "
                "add one that can, or leave this task out of the stage's `tasks`"
            )
        return names

    def share_weights(self, names: Iterable[str]) -> dict[str, float]:
        """Reward -> its share of the weights of these rewards."""
        weights = {name: self.weights[name] for name in names}
        whole = sum(weights.values())
        return {name: weight / whole for name, weight in weights.items()}

    def to_json(self) -> dict[str, Any]:
        """What makes this composer again."""
        return dump_rewards(self.configs)
