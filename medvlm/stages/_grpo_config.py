"""Settings of a stage that learns from rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from medvlm.core.config import Config as BaseConfig
from medvlm.core.config import Slot, component, plugins_in
from medvlm.core.contracts import RewardConfig
from medvlm.core.errors import did_you_mean
from medvlm.core.needs import Needs, Toy
from medvlm.core.stage_config import StageConfig
from medvlm.core.tasks import TextTask, find_task
from medvlm.objectives.policies._contract import SLOT, PolicyConfig, name_default
from medvlm.objectives.policy import Correction
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


class Config(StageConfig):
    kind: Literal["grpo"]
    rewards: Annotated[dict[str, RewardConfig], Rewards()]
    """Reward, or task whose score is the reward -> weight, or settings with a weight. A reward that cannot judge a
    question is left out for it."""
    group: int = Field(8, gt=1)
    """Answers per question."""
    tasks: tuple[TextTask, ...] = ()
    """Tasks whose questions are asked; by default all that at least one reward can judge."""
    without_media: bool = Field(False, exclude_if=lambda without: not without)
    """Also uses samples without media. Their questions may be of all `tasks` except those with answers in
    coordinates."""
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(32, gt=0)
    pay_cut: bool = False
    """Whether an answer that was cut at `max_new_tokens` is judged like a finished one. Off: it earns 0, since what is
    left out could be anything, and nothing else teaches to end an answer."""
    mask_cut: bool = Field(False, exclude_if=lambda mask: not mask)
    """Leaves answers that were cut out of the loss. What they earn still counts in the mean of their group."""
    refill: int = Field(0, ge=0, exclude_if=lambda refill: not refill)
    """How many other questions are tried in place of one whose answers all earn the same and so teach nothing (dynamic
    sampling, DAPO, arXiv 2503.14476, equation 11). They are drawn from the same source, and cost a rollout each."""
    updates: int = Field(1, gt=0)
    """Optimizer updates on the answers of one step (mu in the paper). Clipping has an effect from the second one on."""
    objective: Annotated[Any, Slot(SLOT, optional=True, or_default=True)] = Field(
        None, exclude_if=lambda objective: objective is None
    )
    """How advantages and losses follow from rewards, as a kind or as settings; by default `grpo` with the next two
    settings."""
    clip: float = Field(0.2, gt=0)
    scale_by_deviation: bool = True
    """Divides advantages by the standard deviation of the group, as in GRPO."""
    kl: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the policy at the start of the stage."""
    correction: Correction | None = Field(None, exclude_if=lambda correction: correction is None)
    """Corrects for a rollout engine that computes other log-probabilities than the model in training. Without it, the
    clipped ratio is to the engine's log-probabilities, where it returns them."""
    rollout_log: RolloutLog = Field(RolloutLog(), exclude_if=lambda log: log == RolloutLog())
    """What is stored of the answers that are drawn, for the report."""
    rollouts: Annotated[Any, Slot("rollouts")] = Field(default_factory=make_default)
    """What generates the answers. `local`: the model in training, in its own process."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_tasks(cls, values: Any, info: ValidationInfo) -> Any:
        return fill_in_tasks(values, info)

    @model_validator(mode="after")
    def _check_sources(self) -> Config:
        check_sources(self.rewards, self.mix)
        return self

    @model_validator(mode="after")
    def _can_ask_without_media(self) -> Config:
        if self.without_media and not self.text_tasks:
            raise ValueError(
                f"without_media: {', '.join(self.tasks)} are written in coordinates of an image; add a task that can be"
                " asked without one, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_objective(self) -> Config:
        if self.objective is not None:
            for name in sorted(type(self).model_fields.keys() & type(name_default(1.0, True)).model_fields.keys()):
                if name != "kind" and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name}: the stage names an `objective`, which has settings of its own; write {name} there, or"
                        " remove it"
                    )
        if self.accumulate == "auto" and (self.refill or component(SLOT, self.policy_objective.kind).SPANS_STEP):
            what = "refill" if self.refill else f"objective {self.policy_objective.kind}"
            raise ValueError(f"{what}: ranks exchange what their answers earned; set accumulate to a number")
        return self

    @property
    def policy_objective(self) -> PolicyConfig:
        """`objective`, or what stands for it."""
        given: PolicyConfig | None = self.objective
        return given or name_default(self.clip, self.scale_by_deviation)

    def find_needs(self, model: Any) -> Needs:
        return Needs(self.tasks, media=True, texts=self.text_tasks if self.without_media else ())

    @property
    def text_tasks(self) -> tuple[str, ...]:
        """Those of the tasks that can be asked without media."""
        return tuple(kind for kind in self.tasks if not find_task(kind).NEEDS_CANVAS)

    def shares_prompts(self) -> bool:
        return True

    def acts(self) -> bool:
        return True

    def list_rewards(self) -> dict[str, Any]:
        return dict(self.rewards)

    def scale_down(self, toy: Toy) -> Config:
        heaviest = max(reward.weight for reward in self.rewards.values())
        paid = {name: reward.model_copy(update={"weight": heaviest}) for name, reward in toy.rewards.items()}
        small = {"max_new_tokens": toy.answer_tokens, "group": toy.answers, "temperature": 1.0, "pay_cut": True}
        small |= {"mask_cut": False}
        rewards = leave_out_outside(self.rewards)
        return super().scale_down(toy).model_copy(update={**small, "rewards": {**rewards, **paid} or self.rewards})


def fill_in_tasks(values: Any, info: ValidationInfo) -> Any:
    """Settings of a stage with rewards, whose `tasks` are by default those that they can judge."""
    if not isinstance(values, dict) or values.get("tasks"):
        return values
    rewards, problems = read_rewards(values.get("rewards"), plugins_in(info))
    return values if problems else {**values, "tasks": Composer(rewards).list_judged_tasks()}


def check_sources(rewards: Mapping[str, RewardConfig], mix: Mapping[str, float]) -> None:
    """Raises ValueError for a reward of a source that the stage does not have."""
    for name, reward in rewards.items():
        for source in reward.sources:
            if source not in mix:
                near = did_you_mean(source, mix)
                raise ValueError(f"rewards.{name}.sources: {source!r} is not in `mix`{near} (it has {', '.join(mix)})")


def leave_out_outside(rewards: Mapping[str, RewardConfig]) -> dict[str, RewardConfig]:
    """Without those that ask other processes, which a rehearsal does not have."""
    composer = Composer(rewards)
    return {name: reward for name, reward in rewards.items() if not composer.asks_outside(name)}
