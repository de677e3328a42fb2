"""What stages have in common that draw answers and rank them by rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, model_validator

from medvlm.core.config import Config as BaseConfig
from medvlm.core.config import Slot, plugins_in
from medvlm.core.contracts import RewardConfig
from medvlm.core.errors import did_you_mean
from medvlm.core.needs import Needs, Toy
from medvlm.core.stage_config import StageConfig
from medvlm.core.tasks import TextTask
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import Rewards, read_rewards
from medvlm.rollouts._contract import make_default


class RolloutLog(BaseConfig):
    """Answers are stored in runs/NAME/STAGE/rollouts, with their questions, images and rewards."""

    every: int = Field(50, ge=0)
    """Steps between those whose answers are stored; the first step too. 0: none, where no text of the data may be
    stored."""
    questions: int = Field(4, gt=0)
    """Questions of such a step whose answers are stored."""

    def is_due(self, step: int) -> bool:
        """step: counted from 0."""
        return bool(self.every) and (step == 0 or (step + 1) % self.every == 0)


class RewardedConfig(StageConfig):
    rewards: Annotated[dict[str, RewardConfig], Rewards()]
    """Reward, or task whose score is the reward -> weight, or settings with a weight. A reward that cannot judge a
    question is left out for it."""
    group: int = Field(8, gt=1)
    """Answers per question."""
    tasks: tuple[TextTask, ...] = ()
    """Tasks whose questions are asked; by default all that at least one reward can judge."""
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(32, gt=0)
    pay_cut: bool = False
    """Whether an answer that was cut at `max_new_tokens` is judged like a finished one. Off: it earns 0, since what is
    left out could be anything, and nothing else teaches to end an answer."""
    rollout_log: RolloutLog = Field(RolloutLog(), exclude_if=lambda log: log == RolloutLog())
    """What is stored of the answers that are drawn, for the report."""
    rollouts: Annotated[Any, Slot("rollouts")] = Field(default_factory=make_default)
    """What generates the answers. `local`: the model in training, in its own process."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_tasks(cls, values: Any, info: ValidationInfo) -> Any:
        return _fill_in(values, info)

    @model_validator(mode="after")
    def _has_sources(self) -> Self:
        _check_sources(self.rewards, self.mix)
        return self

    def find_needs(self, model: Any) -> Needs:
        return Needs(self.tasks, media=True)

    def shares_prompts(self) -> bool:
        return True

    def acts(self) -> bool:
        return True

    def list_rewards(self) -> dict[str, Any]:
        return dict(self.rewards)

    def scale_down(self, toy: Toy) -> Self:
        """A reward of the toy varies between answers, since untrained models earn nothing."""
        heaviest = max(reward.weight for reward in self.rewards.values())
        paid = {name: reward.model_copy(update={"weight": heaviest}) for name, reward in toy.rewards.items()}
        small: dict[str, Any] = {
            "max_new_tokens": toy.answer_tokens,
            "group": toy.answers,
            "temperature": 1.0,
            "pay_cut": True,
            "rewards": {**_leave_out_outside(self.rewards), **paid} or self.rewards,
        }
        return super().scale_down(toy).model_copy(update=small)


def _fill_in(values: Any, info: ValidationInfo) -> Any:
    """Settings of a stage with rewards, whose `tasks` are by default those that they can judge."""
    if not isinstance(values, dict) or values.get("tasks"):
        return values
    rewards, problems = read_rewards(values.get("rewards"), plugins_in(info))
    return values if problems else {**values, "tasks": Composer(rewards).list_judged_tasks()}


def _check_sources(rewards: Mapping[str, RewardConfig], mix: Mapping[str, float]) -> None:
    """Raises ValueError for a reward of a source that the stage does not have."""
    for name, reward in rewards.items():
        for source in reward.sources:
            if source not in mix:
                near = did_you_mean(source, mix)
                raise ValueError(f"rewards.{name}.sources: {source!r} is not in `mix`{near} (it has {', '.join(mix)})")


def _leave_out_outside(rewards: Mapping[str, RewardConfig]) -> dict[str, RewardConfig]:
    """Without those that ask other processes, which a rehearsal does not have."""
    composer = Composer(rewards)
    return {name: reward for name, reward in rewards.items() if not composer.asks_outside(name)}
