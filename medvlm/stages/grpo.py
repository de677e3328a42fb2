"""GRPO: reinforcement learning from verifiable rewards. Each answer is compared with the others to the same
question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationInfo, model_validator
from torch import nn

from medvlm.core.config import Slot, component, plugins_in
from medvlm.core.contracts import RewardConfig
from medvlm.core.needs import Needs, Toy
from medvlm.core.sample import Batch, Sample
from medvlm.core.stage_config import StageConfig
from medvlm.core.tasks import TextTask
from medvlm.core.turns import show_until
from medvlm.data.prepare import choose
from medvlm.objectives.policy import advantages, clip_ratio, divergence
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import Rewards, read_rewards
from medvlm.rollouts._contract import Answer, Prompt, Rollouts, SamplingParams, make_default
from medvlm.stages._base import Base, Setup, split_evenly
from medvlm.stages._image_check import ImageCheck
from medvlm.stages._policy import Policy
from medvlm.train.accumulate import Update
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, OfSource, Term, Terms, join

NEEDS = "answer"
AT_ONCE = 64
"""Prompts that are answered together in validation."""


class Config(StageConfig):
    kind: Literal["grpo"]
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
    updates: int = Field(1, gt=0)
    """Optimizer updates on the answers of one step (mu in the paper). Clipping has an effect from the second one on."""
    clip: float = Field(0.2, gt=0)
    kl: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the policy at the start of the stage."""
    scale_by_deviation: bool = True
    """Divides advantages by the standard deviation of the group, as in GRPO; `false` is Dr. GRPO."""
    rollouts: Annotated[Any, Slot("rollouts")] = Field(default_factory=make_default)
    """What generates the answers. `local`: the model in training, in its own process."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_tasks(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict) or values.get("tasks"):
            return values
        rewards, problems = read_rewards(values.get("rewards"), plugins_in(info))
        return values if problems else {**values, "tasks": Composer(rewards).list_judged_tasks()}

    def find_needs(self, model: Any) -> Needs:
        return Needs(self.tasks, media=True)

    def shares_prompts(self) -> bool:
        return True

    def list_rewards(self) -> dict[str, Any]:
        return dict(self.rewards)

    def scale_down(self, toy: Toy) -> Config:
        heaviest = max(reward.weight for reward in self.rewards.values())
        paid = {name: reward.model_copy(update={"weight": heaviest}) for name, reward in toy.rewards.items()}
        small = {"max_new_tokens": toy.answer_tokens, "group": toy.answers, "temperature": 1.0, "pay_cut": True}
        return super().scale_down(toy).model_copy(update={**small, "rewards": {**self.rewards, **paid}})


@dataclass
class Rollout:
    """Answers with their advantages. advantage_L: the advantage of the answer that a token belongs to. reference_L,
    drawn_L: log-probabilities under the reference and under the policy that generated the answers. drawn_L is None
    until the first update computes it, if the rollout engine does not return it."""

    batch: Batch
    advantage_L: torch.Tensor
    reference_L: torch.Tensor | None
    terms: Terms
    drawn_L: torch.Tensor | None = None


def build(config: Config, setup: Setup) -> Grpo:
    return Grpo(config, setup)


class Grpo(Base):
    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.model = setup.composition.build(setup, config)
        self.image_check = ImageCheck(config.name, setup.engine)
        self.composer = Composer(config.rewards)
        self.policy = Policy(self.model, setup, config.temperature)
        engine = component("rollouts", config.rollouts.kind)
        self.rollouts: Rollouts = engine.build(config.rollouts, self.policy.make_parts(config.name))

    def begin(self) -> None:
        if self.config.kl:
            self.policy.keep_reference()

    def set_modes(self) -> None:
        """Eval mode in training too: with dropout, the trained policy would differ from the one that drew the
        answers."""
        super().set_modes()
        self.model.eval()

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Prompt:
        (question,) = choose(sample, self.config.tasks, 1, epoch, self.setup.seed, self.config.name)
        return self.policy.make_prompt(show_until(sample, question), files, question, position)

    def count_tokens(self, item: Prompt) -> int:
        return len(item.document)

    def make_micros(self, prepared: list[Prompt], count: int) -> list[Rollout]:
        return [self._roll_out(part) for part in split_evenly(prepared, count)]

    def make_heaviest(self, items: list[Prompt]) -> Rollout:
        """Every answer has the maximum length."""
        longest = [
            len(self.setup.tokenizer) - 1
        ] * self.config.max_new_tokens  # the last id is an ordinary token; special ones come first
        batch = self.policy.collate(items, [[longest] * self.config.group] * len(items))
        blank_L = torch.zeros(len(batch.targets_L))
        return Rollout(batch, blank_L, blank_L if self.config.kl else None, {}, blank_L)

    def plan_updates(self, micros: list[Rollout], step: int) -> list[Update]:
        return [Update()] * self.config.updates

    def weigh(self, micro: Rollout) -> dict[str, float]:
        return {LOSS: len(micro.batch.targets_L)}

    def compute_loss(self, model: nn.Module, micro: Rollout, step: int) -> Measured:
        batch = micro.batch.to(self.engine.device)
        self.image_check.look(self.model, batch)
        log_L, entropy_L = self.policy.compute_log_probability(model, batch)
        if micro.drawn_L is None:
            micro.drawn_L = log_L.detach()
        drawn_L, advantage_L = (x.to(self.engine.device) for x in (micro.drawn_L, micro.advantage_L))
        loss_L, is_clipped_L = clip_ratio(log_L, drawn_L, advantage_L, self.config.clip)
        terms = {**micro.terms, "clipped": Term(float(is_clipped_L.sum()), len(log_L))}
        terms["entropy"] = Term(float(entropy_L.sum()), len(log_L))
        if micro.reference_L is not None:
            kl_L = divergence(log_L, micro.reference_L.to(self.engine.device))
            loss_L = loss_L + self.config.kl * kl_L
            terms["kl"] = Term(float(kl_L.detach().sum()), len(kl_L))
        return {**terms, LOSS: Loss(loss_L.sum(), len(log_L))}

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """The mean reward of greedy answers. Its negative is the loss that `keep: best` and `patience` use."""
        prompts, total = self.prepare_validation(samples), 0.0
        greedy = SamplingParams(1, 0.0, self.config.max_new_tokens)
        for at in range(0, len(prompts), AT_ONCE):
            part = prompts[at : at + AT_ONCE]
            answers = [answer for (answer,) in self.rollouts.draw(part, greedy)]
            total += sum(self._score(answer, prompt)[0] for answer, prompt in zip(answers, part, strict=True))
        return {LOSS: Term(-total, len(prompts)), "reward": Term(total, len(prompts))}

    def _roll_out(self, prompts: list[Prompt]) -> Rollout:
        config = self.config
        groups = self.rollouts.draw(prompts, SamplingParams(config.group, config.temperature, config.max_new_tokens))
        scored = [[self._score(a, prompt) for a in group] for prompt, group in zip(prompts, groups, strict=True)]
        rewards_PG = torch.tensor([[total for total, _ in group] for group in scored])
        advantage_PG = advantages(rewards_PG, config.scale_by_deviation)
        answers = [answer for group in groups for answer in group]
        lengths = torch.tensor([len(answer.ids) for answer in answers])
        batch = self.policy.collate(prompts, [[answer.ids for answer in group] for group in groups])
        num_tokens = int((batch.docs_BT >= 0).sum())
        return Rollout(
            batch,
            advantage_PG.flatten().repeat_interleave(lengths),
            self.policy.compute_reference(batch) if self.policy.reference else None,
            {**self._make_terms(rewards_PG, scored, lengths, num_tokens), **_measure_by_source(prompts, rewards_PG)},
            _join_log_probabilities(answers),
        )

    def _score(self, answer: Answer, prompt: Prompt) -> tuple[float, dict[str, float]]:
        total, parts = self.composer.score(self.policy.read(answer.ids), prompt.truth)
        if not self.config.pay_cut and self.policy.is_cut(answer.ids, self.config.max_new_tokens):
            return 0.0, dict.fromkeys(parts, 0.0)
        return total, parts

    def _make_terms(
        self,
        rewards_PG: torch.Tensor,
        scored: list[list[tuple[float, dict[str, float]]]],
        lengths: torch.Tensor,
        num_tokens: int,
    ) -> Terms:
        parts: dict[Name, Term] = {}
        for _, by_name in (s for group in scored for s in group):
            join(parts, {f"reward/{name}": Term(value, 1) for name, value in by_name.items()})
        # A group whose rewards are all equal has no advantage and gives no gradient.
        num_differing = float((rewards_PG.max(1).values > rewards_PG.min(1).values).sum())
        return {
            "reward": Term(float(rewards_PG.sum()), rewards_PG.numel()),
            **parts,
            "groups_that_differ": Term(num_differing, len(rewards_PG)),
            TOKENS: Term(float(num_tokens)),
            "answer_tokens": Term(float(lengths.sum()), len(lengths)),
        }


def _join_log_probabilities(answers: Sequence[Answer]) -> torch.Tensor | None:
    """[L], as returned by the rollout engine; None if it returns none."""
    given = [answer.log_probabilities for answer in answers]
    return None if None in given else torch.tensor([x for own in given if own is not None for x in own])


def _measure_by_source(prompts: list[Prompt], rewards_PG: torch.Tensor) -> Terms:
    found: dict[Name, Term] = {}
    for prompt, rewards_G in zip(prompts, rewards_PG, strict=True):
        join(found, {OfSource(prompt.source, "reward"): Term(float(rewards_G.sum()), len(rewards_G))})
    return found
