"""Reinforcement learning from verifiable rewards. Each answer is compared with the others to the same question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medvlm.core.config import component
from medvlm.core.errors import DataError
from medvlm.core.sample import Batch, Sample
from medvlm.core.turns import show_until
from medvlm.data.prepare import choose
from medvlm.objectives.policies._contract import SLOT, Tokens
from medvlm.objectives.policy import correct, divergence
from medvlm.rewards._compose import Composer
from medvlm.rollouts._contract import Answer, Prompt, Rollouts
from medvlm.rollouts._turns import Turns
from medvlm.stages._base import Base, Setup, split_evenly
from medvlm.stages._drawn import Drawer, Drawn, measure, measure_tokens
from medvlm.stages._grpo_config import Config
from medvlm.stages._image_check import ImageCheck
from medvlm.stages._policy import Policy
from medvlm.stages._reward_warnings import RewardWarnings
from medvlm.stages._rollout_log import write_rollouts
from medvlm.train.accumulate import Update
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, Term, Terms

NEEDS = "answer"


@dataclass
class Rollout:
    """Answers with their advantages.

    advantage_L: the advantage of the answer that a token belongs to. reference_L, drawn_L: log-probabilities under the
    reference and under the policy that generated the answers. drawn_L is None until the first update computes it, if
    the rollout engine does not return it. engine_L: what the engine returned, if the losses are corrected for it, and
    correction_L their factors, from the first update on. factor_L: of each loss (None: 1), weight: of all of them, see
    Objective.share_out. lengths_A: tokens of each answer."""

    drawn: Drawn
    batch: Batch
    advantage_L: torch.Tensor
    reference_L: torch.Tensor | None
    terms: Terms
    drawn_L: torch.Tensor | None
    lengths_A: torch.Tensor
    factor_L: torch.Tensor | None
    weight: float
    engine_L: torch.Tensor | None = None
    correction_L: torch.Tensor | None = None


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
        parts = self.policy.make_parts(config.name)
        self.replies: Rollouts = engine.build(config.rollouts, parts)
        self.turns = Turns(self.replies, setup.environment, parts) if setup.environment else None
        self.rollouts: Rollouts = self.turns or self.replies
        self.drawer = Drawer(config, self.policy, self.rollouts, self.composer)
        self.objective: Any = component(SLOT, config.policy_objective.kind)
        self.warnings = RewardWarnings(config.name, self.engine)

    def begin(self) -> None:
        self.composer.start()
        if self.config.kl:
            self.policy.keep_reference()

    def set_modes(self) -> None:
        """Eval mode in training too: with dropout, the trained policy would differ from the one that drew the
        answers."""
        super().set_modes()
        self.model.eval()

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Prompt:
        tasks = self.config.tasks if sample.media else self.config.text_tasks
        (question,) = choose(sample, tasks, 1, epoch, self.setup.seed, self.config.name)
        return self.policy.make_prompt(show_until(sample, question), files, question, position)

    def count(self, prepared: list[Prompt]) -> Terms:
        """Adds what the rollout engine counts."""
        counts: dict[str, float] = self.replies.take_counts() if hasattr(self.replies, "take_counts") else {}
        return {**super().count(prepared), **{name: Term(value, 1) for name, value in counts.items()}}

    def count_tokens(self, item: Prompt) -> int:
        return len(item.document)

    def make_micros(self, prepared: list[Prompt], count: int) -> list[Rollout]:
        self.warnings.check_rewards(self.composer, prepared)
        drawn = [self.drawer.draw(part, self._find_another) for part in split_evenly(prepared, count)]
        groups = self.drawer.join_groups(drawn)
        advantage_PG = self.objective.find_advantages(self.config.policy_objective, groups, self.engine.sum_over_ranks)
        parts = advantage_PG.split([len(each.prompts) for each in drawn])
        self.warnings.note_spread(bool(advantage_PG.any()))
        return [self._make_rollout(*pair) for pair in zip(drawn, parts, strict=True)]

    def make_heaviest(self, items: list[Prompt]) -> Rollout:
        """Every answer has the maximum length."""
        config = self.config
        ids = [len(self.setup.tokenizer) - 1] * config.max_new_tokens  # an ordinary token; special ones come first
        longest = [self.turns.make_longest(item, ids) if self.turns else Answer(ids) for item in items]
        groups, score = [[each] * config.group for each in longest], (0.0, dict[str, float]())
        drawn = Drawn(items, groups, [[score] * config.group for _ in items])
        rollout = self._collate(drawn, torch.zeros(len(items), config.group))
        blank_L = torch.zeros(len(rollout.batch.targets_L))
        return replace(rollout, drawn_L=blank_L, reference_L=blank_L if config.kl else None)

    def plan_updates(self, micros: list[Rollout], step: int) -> list[Update]:
        if self.setup.folder and self.engine.is_first and self.config.rollout_log.is_due(step):
            drawn, most = [micro.drawn for micro in micros], self.config.rollout_log.questions
            write_rollouts(self.setup.folder, step + 1, drawn, most, self.policy, self.drawer.is_cut)
        return [Update()] * self.config.updates

    def weigh(self, micro: Rollout) -> dict[str, float]:
        return {LOSS: micro.weight}

    def compute_loss(self, model: nn.Module, micro: Rollout, step: int) -> Measured:
        config, device = self.config, self.engine.device
        batch = micro.batch.to(device)
        self.image_check.look(self.model, batch)
        log_L, entropy_L = self.policy.compute_log_probability(model, batch)
        if micro.drawn_L is None:
            micro.drawn_L = log_L.detach()
            self.drawer.policy_check.compare(log_L.detach(), micro.drawn.answers, micro.batch.keys)
        tokens = Tokens(log_L, micro.drawn_L.to(device), micro.advantage_L.to(device), micro.lengths_A)
        loss_L, is_clipped_L = self.objective.compute_losses(config.policy_objective, tokens)
        if micro.engine_L is not None:
            loss_L = loss_L * self._correct(micro, tokens)
        terms: dict[Name, Loss | Term] = {**micro.terms, "clipped": Term(float(is_clipped_L.sum()), len(log_L))}
        terms["entropy"] = Term(float(entropy_L.sum()), len(log_L))
        terms |= measure_tokens(micro.drawn, "entropy", entropy_L)
        if micro.reference_L is not None:
            kl_L = divergence(log_L, micro.reference_L.to(device))
            loss_L = loss_L + config.kl * kl_L
            terms["kl"] = Term(float(kl_L.detach().sum()), len(kl_L))
            terms |= measure_tokens(micro.drawn, "kl", kl_L)
        if micro.factor_L is not None:
            loss_L = loss_L * micro.factor_L.to(device)
        return {**terms, LOSS: Loss(loss_L.sum(), micro.weight)}

    def _correct(self, micro: Rollout, tokens: Tokens) -> torch.Tensor:
        """[L] the factors of the first update, which later ones keep: it computes what the model itself finds the
        answers worth."""
        assert micro.engine_L is not None and self.config.correction is not None
        if micro.correction_L is None:
            engine_L = micro.engine_L.to(tokens.log_L.device)
            micro.correction_L, is_beyond_L = correct(tokens.old_L, engine_L, tokens.lengths_A, self.config.correction)
            gap_L = (tokens.old_L - engine_L).abs()
            micro.terms = {
                **micro.terms,
                "engine_gap": Term(float(gap_L.sum()), len(gap_L)),
                "correction": Term(float(micro.correction_L.sum()), len(gap_L)),
                "out_of_bounds": Term(float(is_beyond_L.sum()), len(gap_L)),
            }
        return micro.correction_L

    def validate(self, model: nn.Module, samples: int) -> Terms:
        return self.drawer.validate(self.prepare_validation(samples))

    def _find_another(self, prompt: Prompt, attempt: int) -> Prompt | None:
        """Another question in place of one that teaches nothing, the same in every run and on every rank."""
        place = self.stream.substitute(prompt.position, attempt, "refill")
        try:
            return replace(self._prepare_item(self.stream.read(place)), attempt=attempt)
        except DataError as reason:
            self.setup.quarantine(*self.stream.whereabouts(place), str(reason))
            return None

    def _make_rollout(self, drawn: Drawn, advantage_PG: torch.Tensor) -> Rollout:
        rollout = self._collate(drawn, advantage_PG)
        if self.policy.reference:
            rollout.reference_L = self.policy.compute_reference(rollout.batch)
        return rollout

    def _collate(self, drawn: Drawn, advantage_PG: torch.Tensor) -> Rollout:
        drawn.advantage_PG = advantage_PG
        config, lengths_A = self.config, drawn.lengths_A
        batch = self.policy.collate(drawn.prompts, drawn.groups)
        is_cut = [self.drawer.is_cut(answer) for answer in drawn.answers]
        kept_A = lengths_A.masked_fill(torch.tensor(is_cut), 0) if config.mask_cut else lengths_A
        factor_A, weight = self.objective.share_out(config.policy_objective, kept_A, config.max_new_tokens)
        given_L = _join_log_probabilities(drawn.answers)
        terms = {**measure(drawn, is_cut), TOKENS: Term(float((batch.docs_BT >= 0).sum()))}
        if config.refill:
            terms["replaced"] = Term(float(drawn.replaced), len(drawn.prompts))
        return Rollout(
            drawn,
            batch,
            advantage_PG.flatten().repeat_interleave(lengths_A),
            None,
            terms,
            None if config.correction else given_L,
            lengths_A,
            None if bool((factor_A == 1).all()) else factor_A.repeat_interleave(lengths_A),
            weight,
            given_L if config.correction else None,
        )


def _join_log_probabilities(answers: Sequence[Answer]) -> torch.Tensor | None:
    """[L], as returned by the rollout engine; None if it returns none."""
    given = [answer.log_probabilities for answer in answers]
    return None if None in given else torch.tensor([x for own in given if own is not None for x in own])
