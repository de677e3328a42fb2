"""One round of learning from pairs of the model's own answers, ranked by rewards: several answers are drawn to each
question, and the best is preferred to the worst. Several such stages in a row are several rounds.

A pair is learned from if it passes the gate: the best answer earns at least `least`, and at least `apart` more than
the worst. With `right_answers: failed`, a question of which no answer earns `least` is not lost: the right answer of
the data is preferred to the worst one that was drawn.

Sources: Anyprefer (Zhou et al. 2025; re-implementation 1rsh/anyprefer at 1f3b390): candidates, a judge with tools, a
gate on pairs, DPO, and rounds that begin from the model of the round before. OraPO (arXiv 2509.18600): failed groups of
reinforcement become pairs with the reference. Deviations: candidates are drawn by the model as it is at each step, and
not all of them before the first; a pair that fails the gate is left out, where Anyprefer rewrites its prompts and tries
again; the gate is on what the two answers earn, where Anyprefer asks a model about the pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field

from medvlm.core.config import Slot, component
from medvlm.core.needs import Toy
from medvlm.core.sample import Sample
from medvlm.core.turns import show_until
from medvlm.data.prepare import choose
from medvlm.objectives.preferences._contract import SLOT, make_default
from medvlm.rewards._compose import Composer
from medvlm.rollouts._contract import Answer, Prompt
from medvlm.rollouts._turns import Turns
from medvlm.stages._base import Setup, split_evenly
from medvlm.stages._drawn import Drawer, Drawn, measure
from medvlm.stages._pairs import Pairs, PairStage
from medvlm.stages._reward_warnings import RewardWarnings
from medvlm.stages._rewarded_config import RewardedConfig
from medvlm.stages._rollout_log import write_rollouts
from medvlm.train.accumulate import Update
from medvlm.train.terms import LOSS, Name, OfSource, Term, Terms, join

NEEDS = "answer"


class Config(RewardedConfig):
    kind: Literal["preference_round"]
    group: int = Field(5, gt=1)
    """Answers that are drawn to each question; 5 as in Anyprefer."""
    objective: Annotated[Any, Slot(SLOT, or_default=True)] = Field(default_factory=make_default)
    """What is learned from a pair: a kind, or its settings."""
    least: float = Field(0.5, ge=0, le=1)
    """What the best answer has to earn."""
    apart: float = Field(0.1, gt=0, le=1)
    """How much more than the worst one."""
    right_answers: Literal["never", "failed"] = "never"
    """`failed`: where no answer earns `least`, the right answer of the data is preferred."""

    @property
    def refill(self) -> int:
        return 0

    def scale_down(self, toy: Toy) -> Self:
        """The gate is open."""
        return super().scale_down(toy).model_copy(update={"least": 0.0, "apart": 1e-3})


def build(config: Config, setup: Setup) -> PreferenceRound:
    return PreferenceRound(config, setup)


class PreferenceRound(PairStage):
    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.composer = Composer(config.rewards)
        parts = self.policy.make_parts(config.name)
        replies = component("rollouts", config.rollouts.kind).build(config.rollouts, parts)
        self.turns = Turns(replies, setup.environment, parts) if setup.environment else None
        self.rollouts = self.turns or replies
        self.drawer = Drawer(config, self.policy, self.rollouts, self.composer)
        self.warnings = RewardWarnings(config.name, self.engine)

    def begin(self) -> None:
        self.composer.start()
        super().begin()

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Prompt:
        (question,) = choose(sample, self.config.tasks, 1, epoch, self.setup.seed, self.config.name)
        with_right = self.config.right_answers == "failed"
        return self.policy.make_prompt(show_until(sample, question), files, question, position, with_right)

    def count_tokens(self, item: Prompt) -> int:
        return len(item.document)

    def make_micros(self, prepared: list[Prompt], count: int) -> list[Pairs]:
        self.warnings.check_rewards(self.composer, prepared)
        micros = [
            self._pair(self.drawer.draw(part, lambda prompt, attempt: None)) for part in split_evenly(prepared, count)
        ]
        self.warnings.note_spread(any(float(self.weigh(micro)[LOSS]) for micro in micros))
        return micros

    def make_heaviest(self, items: list[Prompt]) -> Pairs:
        """Every answer has the maximum length, or that of the longest right one."""
        longest = max([self.config.max_new_tokens, *(len(item.right) for item in items)])
        ids = [len(self.setup.tokenizer) - 1] * longest
        pairs = [[self.turns.make_longest(item, ids) if self.turns else Answer(ids)] * 2 for item in items]
        blank = torch.zeros(len(items), 2) if self.objective.NEEDS_REFERENCE else None
        return self._collate(items, pairs, torch.ones(len(items)), {}, blank)

    def plan_updates(self, micros: list[Pairs], step: int) -> Sequence[Update]:
        if self.setup.folder and self.engine.is_first and self.config.rollout_log.is_due(step):
            drawn, most = [micro.drawn for micro in micros if micro.drawn], self.config.rollout_log.questions
            write_rollouts(self.setup.folder, step + 1, drawn, most, self.policy, self.drawer.is_cut)
        return [Update()]

    def _pair(self, drawn: Drawn) -> Pairs:
        """The best and the worst answer to each question, or the right one and the worst. Log-probabilities of pairs
        that do not pass the gate are computed too, with the weight 0: so all ranks do the same work."""
        config, pairs, counts, from_data = self.config, list[list[Answer]](), list[float](), 0
        rewards_PG = drawn.rewards_PG
        chosen_PG = torch.zeros_like(rewards_PG)
        for p, (prompt, group) in enumerate(zip(drawn.prompts, drawn.groups, strict=True)):
            best, worst = int(rewards_PG[p].argmax()), int(rewards_PG[p].argmin())
            top, bottom = float(rewards_PG[p, best]), float(rewards_PG[p, worst])
            is_judged = bool(drawn.scored[p][0][1])  # else they only seem to have failed
            if prompt.right and is_judged and top < config.least and not self._is_right_said(prompt, group):
                pairs.append([Answer(list(prompt.right)), group[worst]])
                counts.append(1.0)
                from_data += 1
            else:
                pairs.append([group[best], group[worst]])
                counts.append(float(top >= config.least and top - bottom >= config.apart))
                chosen_PG[p, best] = counts[-1]
            chosen_PG[p, worst] -= counts[-1]
        drawn.advantage_PG = chosen_PG
        terms = self._measure(drawn, counts, from_data)
        micro = self._collate(drawn.prompts, pairs, torch.tensor(counts), terms, None)
        micro.drawn = drawn
        if self.policy.reference:
            micro.reference_N2 = self._add_up(self.policy.compute_reference(micro.batch), micro)
        return micro

    def _is_right_said(self, prompt: Prompt, group: Sequence[Answer]) -> bool:
        """By their texts: templates write more behind the end of an answer than a model generates."""
        return self.policy.read(prompt.right) in (self.policy.read(answer.ids) for answer in group)

    def _measure(self, drawn: Drawn, counts: Sequence[float], from_data: int) -> Terms:
        is_cut = [self.drawer.is_cut(answer) for answer in drawn.answers]
        found: dict[Name, Term] = {
            **measure(drawn, is_cut),
            "kept": Term(sum(counts), len(counts)),
            "from_data": Term(float(from_data), len(counts)),
        }
        for prompt, counted in zip(drawn.prompts, counts, strict=True):
            join(found, {OfSource(prompt.source, f"{prompt.truth.task}/kept"): Term(counted, 1)})
        return found

    def _collate(
        self, prompts: Sequence[Prompt], pairs: Sequence[list[Answer]], counts_N: torch.Tensor, terms: Terms, blank: Any
    ) -> Pairs:
        lengths = torch.tensor([len(answer.written) for pair in pairs for answer in pair])
        batch = self.policy.collate(prompts, pairs)
        return Pairs(batch, lengths, tuple(p.source for p in prompts), blank, counts_N, terms)

    def validate(self, model: torch.nn.Module, samples: int) -> Terms:
        return self.drawer.validate(self.prepare_validation(samples))
