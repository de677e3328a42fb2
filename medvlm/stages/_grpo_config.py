"""Settings of reinforcement: how advantages and losses follow from rewards."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from medvlm.core.config import Slot, component
from medvlm.core.needs import Needs, Toy
from medvlm.core.tasks import find_task
from medvlm.objectives.policies._contract import SLOT, PolicyConfig, name_default
from medvlm.objectives.policy import Correction
from medvlm.stages._rewarded_config import RewardedConfig


class Config(RewardedConfig):
    kind: Literal["grpo"]
    without_media: bool = Field(False, exclude_if=lambda without: not without)
    """Also uses samples without media. Their questions may be of all `tasks` except those with answers in
    coordinates."""
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

    @model_validator(mode="after")
    def _can_ask_without_media(self) -> Self:
        if self.without_media and not self.text_tasks:
            raise ValueError(
                f"without_media: {', '.join(self.tasks)} are written in coordinates of an image; add a task that can be"
                " asked without one, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
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

    def scale_down(self, toy: Toy) -> Self:
        return super().scale_down(toy).model_copy(update={"mask_cut": False})
