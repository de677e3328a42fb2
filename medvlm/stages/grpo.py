"""Reinforcement from verifiable rewards: several answers to one question, each judged against the group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationInfo, model_validator
from torch import nn

from medvlm.core.config import Slot, component, plugins_in
from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Batch, Sample
from medvlm.core.stage_config import StageConfig, Toy
from medvlm.core.tasks import TextTask
from medvlm.data.prepare import choose
from medvlm.data.source import needs
from medvlm.objectives.policy import advantages, clip_ratio, divergence
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import Rewards, read_rewards
from medvlm.rollouts._contract import Answer, Prompt, Rollouts, Sampling, make_default
from medvlm.stages._base import Base, Setup, Wants, chunks
from medvlm.stages._image_check import ImageCheck
from medvlm.stages._policy import Policy
from medvlm.train.accumulate import Update
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, OfSource, Term, Terms, join

NEEDS = "answer"
AT_ONCE = 64
"""Prompts of a validation that are answered together."""


class Config(StageConfig):
    kind: Literal["grpo"]
    rewards: Annotated[dict[str, RewardConfig], Rewards()]
    """Reward, or task whose score it is -> weight, or settings with a weight; those that cannot judge a question leave
    it to the others."""
    group: int = Field(8, gt=1)
    """Answers per question."""
    tasks: tuple[TextTask, ...] = ()
    """Which questions; by default those that one of the rewards can judge."""
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(32, gt=0)
    updates: int = Field(1, gt=0)
    """Optimiser steps on the answers of one step (the paper's mu); from the second on the clip acts."""
    clip: float = Field(0.2, gt=0)
    kl: float = Field(0.0, ge=0)
    """Weight of the divergence from the policy as the stage began."""
    scale_by_deviation: bool = True
    """GRPO's division by the group's deviation; off is Dr. GRPO."""
    rollouts: Annotated[Any, Slot("rollouts")] = Field(default_factory=make_default)
    """What draws the answers: `local` is the model that is trained, where it is trained."""

    @model_validator(mode="before")
    @classmethod
    def _ask_what_rewards_judge(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict) or values.get("tasks"):
            return values
        rewards, problems = read_rewards(values.get("rewards"), plugins_in(info))
        return values if problems else {**values, "tasks": Composer(rewards).list_judged_tasks()}

    def rewards_used(self) -> dict[str, Any]:
        return dict(self.rewards)

    def rehearsed(self, toy: Toy) -> Config:
        heaviest = max(reward.weight for reward in self.rewards.values())
        paid = {name: reward.model_copy(update={"weight": heaviest}) for name, reward in toy.rewards.items()}
        small = {"max_new_tokens": toy.answer_tokens, "group": toy.answers, "temperature": 1.0}
        return super().rehearsed(toy).model_copy(update={**small, "rewards": {**self.rewards, **paid}})


@dataclass
class Rollout:
    """Answers with what they earned. advantage_L: of the answer that a target belongs to. drawn_L: log-probabilities
    under the policy that drew the answers, known once the first update has computed them."""

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
        self.rollouts: Rollouts = engine.build(config.rollouts, self.policy.parts(config.name))

    def begin(self) -> None:
        if self.config.kl:
            self.policy.keep_reference()

    def set_modes(self) -> None:
        """No dropout in training either: the policy whose probabilities are moved is the one that drew the answers."""
        self.model.eval()
        self.model.runs_all = self.engine.is_sharded

    @property
    def wants(self) -> Wants:
        return needs(tasks=self.config.tasks, media=self.setup.prepare.takes)

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Prompt:
        (question,) = choose(sample, self.config.tasks, 1, epoch, self.setup.seed, self.config.name)
        return self.policy.ask(sample, files, question, position)

    def count_tokens(self, item: Prompt) -> int:
        return len(item.document)

    def micros(self, prepared: list[Prompt], count: int) -> list[Rollout]:
        return [self._roll_out(part) for part in chunks(prepared, count)]

    def heaviest(self, items: list[Prompt]) -> Rollout:
        """As if every answer were as long as it may be."""
        longest = [len(self.setup.tokenizer) - 1] * self.config.max_new_tokens  # a word: special tokens come first
        batch = self.policy.collate(items, [[longest] * self.config.group] * len(items))
        blank_L = torch.zeros(len(batch.targets_L))
        return Rollout(batch, blank_L, blank_L if self.config.kl else None, {}, blank_L)

    def updates(self, micros: list[Rollout], step: int) -> list[Update]:
        return [Update()] * self.config.updates

    def weights(self, micro: Rollout) -> dict[str, float]:
        return {LOSS: len(micro.batch.targets_L)}

    def loss(self, model: nn.Module, micro: Rollout, step: int) -> Measured:
        batch = micro.batch.to(self.engine.device)
        self.image_check.look(self.model, batch)
        log_L = self.policy.log_probability(model, batch)
        if micro.drawn_L is None:
            micro.drawn_L = log_L.detach()
        drawn_L, advantage_L = (x.to(self.engine.device) for x in (micro.drawn_L, micro.advantage_L))
        loss_L, is_clipped_L = clip_ratio(log_L, drawn_L, advantage_L, self.config.clip)
        terms = {**micro.terms, "clipped": Term(float(is_clipped_L.sum()), len(log_L))}
        if micro.reference_L is not None:
            kl_L = divergence(log_L, micro.reference_L.to(self.engine.device))
            loss_L = loss_L + self.config.kl * kl_L
            terms["kl"] = Term(float(kl_L.detach().sum()), len(kl_L))
        return {**terms, LOSS: Loss(loss_L.sum(), len(log_L))}

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """The reward of the greedy answer; its negative is the loss that `keep: best` and patience look at."""
        prompts, total = self.validation(samples), 0.0
        greedy = Sampling(1, 0.0, self.config.max_new_tokens)
        for at in range(0, len(prompts), AT_ONCE):
            part = prompts[at : at + AT_ONCE]
            answers = [answer for (answer,) in self.rollouts.draw(part, greedy)]
            total += sum(self._score(answer, prompt)[0] for answer, prompt in zip(answers, part, strict=True))
        return {LOSS: Term(-total, len(prompts)), "reward": Term(total, len(prompts))}

    def _roll_out(self, prompts: list[Prompt]) -> Rollout:
        config = self.config
        groups = self.rollouts.draw(prompts, Sampling(config.group, config.temperature, config.max_new_tokens))
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
            self.policy.reference_log_probability(batch) if self.policy.reference else None,
            {**self._terms(rewards_PG, scored, lengths, num_tokens), **_terms_by_source(prompts, rewards_PG)},
            _drawn_log_probability(answers),
        )

    def _score(self, answer: Answer, prompt: Prompt) -> tuple[float, dict[str, float]]:
        return self.composer.score(self.policy.read(answer.ids), prompt.truth)

    def _terms(
        self,
        rewards_PG: torch.Tensor,
        scored: list[list[tuple[float, dict[str, float]]]],
        lengths: torch.Tensor,
        num_tokens: int,
    ) -> Terms:
        parts: dict[Name, Term] = {}
        for _, by_name in (s for group in scored for s in group):
            join(parts, {f"reward/{name}": Term(value, 1) for name, value in by_name.items()})
        telling = float((rewards_PG.max(1).values > rewards_PG.min(1).values).sum())
        return {
            "reward": Term(float(rewards_PG.sum()), rewards_PG.numel()),
            **parts,
            "groups_that_differ": Term(telling, len(rewards_PG)),
            TOKENS: Term(float(num_tokens)),
            "answer_tokens": Term(float(lengths.sum()), len(lengths)),
        }


def _drawn_log_probability(answers: Sequence[Answer]) -> torch.Tensor | None:
    """[L], as the engine that drew the answers gave it; None where it gave none."""
    given = [answer.log_probabilities for answer in answers]
    return None if None in given else torch.tensor([x for own in given if own is not None for x in own])


def _terms_by_source(prompts: list[Prompt], rewards_PG: torch.Tensor) -> Terms:
    found: dict[Name, Term] = {}
    for prompt, rewards_G in zip(prompts, rewards_PG, strict=True):
        join(found, {OfSource(prompt.source, "reward"): Term(float(rewards_G.sum()), len(rewards_G))})
    return found
