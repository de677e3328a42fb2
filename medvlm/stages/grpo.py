"""Reinforcement from verifiable rewards: several answers to one question, each judged against the group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationInfo, model_validator
from torch import nn

from medvlm.core.config import plugins_in
from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Batch, Sample, Truth
from medvlm.core.stage_config import StageConfig
from medvlm.core.tasks import TextTask
from medvlm.data.dialogue import Document
from medvlm.data.order import draw
from medvlm.data.prepare import choose
from medvlm.data.source import needs
from medvlm.models.generate import end_ids, generate, without_image
from medvlm.models.parts import evaluating
from medvlm.objectives.next_token import log_probability
from medvlm.objectives.policy import advantages, clipped, divergence
from medvlm.rewards._compose import Composer
from medvlm.rewards._config import Rewards, read_rewards
from medvlm.stages._base import Base, Setup, Wants, chunks
from medvlm.stages._image_check import ImageCheck
from medvlm.train.accumulate import Update
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, OfSource, Term, Terms, join

NEEDS = "answer"


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

    @model_validator(mode="before")
    @classmethod
    def _ask_what_rewards_judge(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict) or values.get("tasks"):
            return values
        rewards, problems = read_rewards(values.get("rewards"), plugins_in(info))
        return values if problems else {**values, "tasks": Composer(rewards).list_judged_tasks()}


@dataclass(frozen=True)
class Prompt:
    key: str
    document: Document
    truth: Truth
    position: int
    source: str = ""


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
    """Answers are drawn from (seed, position), so they do not depend on the rank."""

    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.model = setup.composition.build(setup, config)
        self.image_check = ImageCheck(config.name, setup.engine)
        self.composer = Composer(config.rewards)
        self.reference: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """Remembers the policy as the stage begins; called once its starting weights are in, before any resume."""
        if self.config.kl:
            self.reference = {
                n: self.engine.whole(p).detach().clone() for n, p in self.model.named_parameters() if p.requires_grad
            }

    def set_modes(self) -> None:
        """No dropout in training either: the policy whose probabilities are moved is the one that drew the answers."""
        self.model.eval()
        self.model.runs_all = self.engine.is_sharded

    @property
    def wants(self) -> Wants:
        return needs(tasks=self.config.tasks, media=self.setup.prepare.takes)

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Prompt:
        (question,) = choose(sample, self.config.tasks, 1, epoch, self.setup.seed, self.config.name)
        seen = self.setup.prepare.see(sample, files)
        document = self.setup.prepare.document(sample, [question], seen, ["media"], answered=False)
        return Prompt(sample.key, document, self.setup.prepare.truth(question, seen.canvas), position)

    def micros(self, prepared: list[Prompt], count: int) -> list[Rollout]:
        return [self._roll_out(part) for part in chunks(prepared, count)]

    def updates(self, micros: list[Rollout], step: int) -> list[Update]:
        return [Update()] * self.config.updates

    def weights(self, micro: Rollout) -> dict[str, float]:
        return {LOSS: len(micro.batch.targets_L)}

    def loss(self, model: nn.Module, micro: Rollout, step: int) -> Measured:
        batch = micro.batch.to(self.engine.device)
        self.image_check.look(self.model, batch)
        log_L = self._log_probability(model, batch)
        if micro.drawn_L is None:
            micro.drawn_L = log_L.detach()
        loss_L, is_clipped_L = clipped(log_L, micro.drawn_L, micro.advantage_L.to(self.engine.device), self.config.clip)
        terms = {**micro.terms, "clipped": Term(float(is_clipped_L.sum()), len(log_L))}
        if micro.reference_L is not None:
            kl_L = divergence(log_L, micro.reference_L.to(self.engine.device))
            loss_L = loss_L + self.config.kl * kl_L
            terms["kl"] = Term(float(kl_L.detach().sum()), len(kl_L))
        return {**terms, LOSS: Loss(loss_L.sum(), len(log_L))}

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """The reward of the greedy answer; its negative is the loss that `keep: best` and patience look at."""
        prompts, total = self.validation(samples), 0.0
        with evaluating(self.model), self.engine.unsharded(self.model):
            for at in range(0, len(prompts), 64):
                part = prompts[at : at + 64]
                answers = self._generate(part, copies=1, temperature=0.0)
                total += sum(self.composer.score(self._text(a), p.truth)[0] for a, p in zip(answers, part, strict=True))
        return {LOSS: Term(-total, len(prompts)), "reward": Term(total, len(prompts))}

    def _roll_out(self, prompts: list[Prompt]) -> Rollout:
        with evaluating(self.model), self.engine.unsharded(self.model):
            answers = self._generate(prompts, self.config.group, self.config.temperature)
        groups = [answers[i * self.config.group : (i + 1) * self.config.group] for i in range(len(prompts))]
        scored = [
            [self.composer.score(self._text(a), p.truth) for a in group]
            for p, group in zip(prompts, groups, strict=True)
        ]
        rewards_PG = torch.tensor([[total for total, _ in group] for group in scored])
        advantage_PG = advantages(rewards_PG, self.config.scale_by_deviation)

        # The prompt's last token starts every branch's prediction, so it stays in the prefix and the answers are all
        # trained.
        documents = [
            replace(p.document, prefix=_whole(p.document), branches=[(a, 0) for a in group])
            for p, group in zip(prompts, groups, strict=True)
        ]
        batch = self.setup.prepare.collate(documents, self.setup.tokenizer.pad_token_id)
        lengths = torch.tensor([len(a) for a in answers])
        advantage_L = advantage_PG.flatten().repeat_interleave(lengths)
        num_tokens = int((batch.docs_BT >= 0).sum())
        terms = {**self._terms(rewards_PG, scored, lengths, num_tokens), **_terms_by_source(prompts, rewards_PG)}
        return Rollout(batch, advantage_L, self._reference(batch), terms)

    def _generate(self, prompts: list[Prompt], copies: int, temperature: float) -> list[list[int]]:
        documents = [replace(p.document, prefix=_whole(p.document), branches=[]) for p in prompts]
        batch = self.setup.prepare.collate(documents, self.setup.tokenizer.pad_token_id, pack=False).to(
            self.engine.device
        )
        limit, ends = self.config.max_new_tokens, end_ids(self.model, self.setup.tokenizer)
        uniform = [
            draw(self.setup.seed, self.config.name, "answers", p.position).random((limit, copies)) for p in prompts
        ]
        draws = [lambda number, u=u: u[number] for u in uniform]  # type: ignore[misc]
        return generate(
            self.model, batch, max_new_tokens=limit, end_ids=ends, copies=copies, temperature=temperature, draws=draws
        )

    @torch.no_grad()
    def _reference(self, batch: Batch) -> torch.Tensor | None:
        """[L] log-probabilities under the weights that the stage began with."""
        if not self.reference:
            return None
        with evaluating(self.model), self.engine.unsharded(self.model):
            now = {n: p for n, p in self.model.named_parameters() if n in self.reference}
            kept = {n: p.detach().clone() for n, p in now.items()}
            for name, parameter in now.items():
                parameter.copy_(self.reference[name])
            reference = self._log_probability(self.model, batch.to(self.engine.device))
            for name, parameter in now.items():
                parameter.copy_(kept[name])
        return reference.cpu()

    def _log_probability(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[L] under the distribution that the answers were drawn from."""
        return log_probability(
            without_image(model(batch)["logits_LV"], self.model.image_token_id),
            batch.targets_L,
            self.config.temperature,
        )

    def _text(self, ids: list[int]) -> str:
        return str(self.setup.tokenizer.decode(ids, skip_special_tokens=True)).strip()

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


def _whole(document: Document) -> list[int]:
    return document.prefix + [i for ids, _ in document.branches for i in ids]


def _terms_by_source(prompts: list[Prompt], rewards_PG: torch.Tensor) -> Terms:
    found: dict[Name, Term] = {}
    for prompt, rewards_G in zip(prompts, rewards_PG, strict=True):
        join(found, {OfSource(prompt.source, "reward"): Term(float(rewards_G.sum()), len(rewards_G))})
    return found
