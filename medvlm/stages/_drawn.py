"""Draws the answers of a policy, scores them, and replaces questions whose answers all earn the same.

Axes: P prompts, G answers to each, R rewards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from multiprocessing.pool import ThreadPool
from typing import Protocol

import torch

from medvlm.core.contracts import Case
from medvlm.objectives.policies._contract import Groups
from medvlm.objectives.policy import sum_answers
from medvlm.rewards._compose import Composer
from medvlm.rollouts._contract import Answer, Prompt, Rollouts, SamplingParams
from medvlm.stages._policy import Policy
from medvlm.stages._policy_check import PolicyCheck
from medvlm.train.terms import LOSS, Name, OfSource, Term, Terms, join

Score = tuple[float, dict[str, float]]
"""The composed reward of an answer, and each reward that can judge it."""
AT_ONCE = 32
"""Answers that are scored at a time, if that waits for other processes."""
IN_VALIDATION = 64
"""Prompts that are answered together."""
FindAnother = Callable[[Prompt, int], Prompt | None]
"""Prompt and number of the attempt -> another question in its place; None if it cannot be used."""


@dataclass
class Drawn:
    """The questions of a micro-batch, the answers to each, and what they earned. replaced: questions that took the
    place of others. advantage_PG: once it is known. missing: reward -> answers that it has no score of."""

    prompts: list[Prompt]
    groups: list[list[Answer]]
    scored: list[list[Score]]
    replaced: int = 0
    advantage_PG: torch.Tensor | None = None
    missing: Counter[str] = field(default_factory=Counter)

    @property
    def rewards_PG(self) -> torch.Tensor:
        return torch.tensor([[total for total, _ in group] for group in self.scored])

    @property
    def answers(self) -> list[Answer]:
        return [answer for group in self.groups for answer in group]

    @property
    def lengths_A(self) -> torch.Tensor:
        return torch.tensor([len(answer.written) for answer in self.answers])

    def list_flat(self) -> list[int]:
        """The numbers of the questions whose answers all earn the same: they have no advantage and give no gradient."""
        return [i for i, group in enumerate(self.scored) if len({total for total, _ in group}) == 1]


def make_case(answer: Answer, prompt: Prompt, image_gain: float | None = None) -> Case:
    """What an answer to a prompt is judged by."""
    calls = sum(not observed.is_refused for _, observed in answer.earlier)
    return Case(prompt.truth, prompt.steps, prompt.source, image_gain, prompt.text, calls)


class Draws(Protocol):
    """The settings of a stage that draws answers."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> int: ...

    @property
    def temperature(self) -> float: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def pay_cut(self) -> bool: ...

    @property
    def refill(self) -> int: ...


class Drawer:
    """config: of the stage. Called on every rank, with the prompts of that rank."""

    def __init__(self, config: Draws, policy: Policy, rollouts: Rollouts, composer: Composer):
        self.config, self.policy, self.rollouts, self.composer = config, policy, rollouts, composer
        self.policy_check = PolicyCheck(config.name, policy.model, policy.engine.config.precision)

    def draw(self, prompts: list[Prompt], find_another: FindAnother) -> Drawn:
        """The answers to the prompts, or to others in their place, see `refill` of the stage."""
        drawn = self._draw(prompts)
        for attempt in range(1, self.config.refill + 1):
            flat = drawn.list_flat()
            if not self.policy.engine.sum_over_ranks([len(flat)])[0]:
                break
            found = [(i, find_another(prompts[i], attempt)) for i in flat]
            others = {i: prompt for i, prompt in found if prompt is not None}
            # Every rank draws, with or without prompts: some engines gather weights from all of them.
            again = self._draw(list(others.values()))
            useless = set(again.list_flat())
            for number, i in enumerate(others):
                if number not in useless:
                    drawn.prompts[i], drawn.groups[i] = again.prompts[number], again.groups[number]
                    drawn.scored[i] = again.scored[number]
                    drawn.replaced += 1
        return drawn

    def _draw(self, prompts: list[Prompt]) -> Drawn:
        config = self.config
        for_check = self.policy_check.is_due()
        sampling = SamplingParams(config.group, config.temperature, config.max_new_tokens, for_check)
        groups = self.rollouts.draw(prompts, sampling)
        gains: Iterator[float | None] = repeat(None)
        if self.composer.needs_image_gain:
            gains = iter(self.policy.compute_image_gain(prompts, groups))
        asked = []
        for prompt, group in zip(prompts, groups, strict=True):
            own = [gain if prompt.sample.media else None for gain in islice(gains, len(group))]
            asked.append([(each, make_case(each, prompt, gain)) for each, gain in zip(group, own, strict=True)])
        scored, missing = self._score_groups(asked)
        return Drawn(list(prompts), [list(group) for group in groups], scored, missing=missing)

    def validate(self, prompts: Sequence[Prompt]) -> Terms:
        """The mean reward of greedy answers. Its negative is the loss that `keep: best` and `patience` use."""
        greedy, total = SamplingParams(1, 0.0, self.config.max_new_tokens), 0.0
        for at in range(0, len(prompts), IN_VALIDATION):
            part = prompts[at : at + IN_VALIDATION]
            answers = [answer for (answer,) in self.rollouts.draw(part, greedy)]
            total += sum(score for score, _ in self.score(answers, part))
        return {LOSS: Term(-total, len(prompts)), "reward": Term(total, len(prompts))}

    def score(self, answers: Sequence[Answer], prompts: Sequence[Prompt]) -> list[Score]:
        """Of an answer to each prompt."""
        asked = [[(answer, make_case(answer, prompt))] for answer, prompt in zip(answers, prompts, strict=True)]
        return [score for (score,) in self._score_groups(asked)[0]]

    def _score_groups(self, asked: Sequence[Sequence[tuple[Answer, Case]]]) -> tuple[list[list[Score]], Counter[str]]:
        """The scores of the answers to each question, and the answers that a reward has no score of."""
        said = [[(self.policy.read(answer.ids), case) for answer, case in group] for group in asked]
        missing = Counter[str]()
        if self.composer.waits:
            with ThreadPool(AT_ONCE) as pool:
                found = iter(pool.starmap(self.composer.find_parts, [each for group in said for each in group], 1))
            parts = [[next(found) for _ in group] for group in said]
            missing.update(n for group in parts for own in group for n, value in own.items() if value is None)
            scored = [self.composer.weigh_group(group) for group in parts]
        else:
            scored = [[self.composer.score(*each) for each in group] for group in said]
        judged = [
            [self._refuse_cut(answer, score) for (answer, _), score in zip(group, own, strict=True)]
            for group, own in zip(asked, scored, strict=True)
        ]
        return judged, missing

    def _refuse_cut(self, answer: Answer, score: Score) -> Score:
        if not self.config.pay_cut and self.is_cut(answer):
            return 0.0, dict.fromkeys(score[1], 0.0)
        return score

    def is_cut(self, answer: Answer) -> bool:
        return self.policy.is_cut(answer.ids, self.config.max_new_tokens)

    def join_groups(self, drawn: Sequence[Drawn]) -> Groups:
        """What the micro-batches of a step earned."""
        scored = [group for each in drawn for group in each.scored]
        names = list(self.composer.weights)
        parts = [[[parts.get(name, torch.nan) for name in names] for _, parts in group] for group in scored]
        shares = [self.composer.share_weights(group[0][1]) for group in scored]
        size = self.config.group
        return Groups(
            torch.cat([each.rewards_PG for each in drawn]),
            torch.tensor(parts),
            torch.tensor([[share.get(name, 0.0) for name in names] for share in shares]),
            torch.cat([each.lengths_A for each in drawn]).view(-1, size),
            self.config.max_new_tokens,
        )


def measure(drawn: Drawn, is_cut: Sequence[bool]) -> Terms:
    """Rewards, groups that differ, and lengths, over all; and for each source and each of its tasks, with the share of
    answers that were cut (is_cut, of each answer)."""
    rewards_PG, lengths_A = drawn.rewards_PG, drawn.lengths_A
    parts: dict[Name, Term] = {}
    for _, by_name in (s for group in drawn.scored for s in group):
        join(parts, {f"reward/{name}": Term(value, 1) for name, value in by_name.items()})
    differs_P = rewards_PG.max(1).values > rewards_PG.min(1).values
    found: dict[Name, Term] = {
        "reward": Term(float(rewards_PG.sum()), rewards_PG.numel()),
        **parts,
        "groups_that_differ": Term(float(differs_P.sum()), len(rewards_PG)),
        "answer_tokens": Term(float(lengths_A.sum()), len(lengths_A)),
        "cut": Term(float(sum(is_cut)), len(is_cut)),
        **{f"missing/{name}": Term(float(count), len(is_cut)) for name, count in drawn.missing.items()},
    }
    G = rewards_PG.shape[1]
    if any(answer.earlier for answer in drawn.answers):
        calls = [observed for answer in drawn.answers for _, observed in answer.earlier]
        found["calls"] = Term(float(len(calls)), len(drawn.answers))
        found["refused_calls"] = Term(float(sum(observed.is_refused for observed in calls)), len(calls))
    for p, prompt in enumerate(drawn.prompts):
        join(found, {OfSource(prompt.source, "reward"): Term(float(rewards_PG[p].sum()), G)})
        of_prompt: dict[str, Term] = {
            "reward": Term(float(rewards_PG[p].sum()), G),
            "spread": Term(float(differs_P[p]), 1),
            "answer_tokens": Term(float(lengths_A[p * G : p * G + G].sum()), G),
            "cut": Term(float(sum(is_cut[p * G : p * G + G])), G),
        }
        join(found, {_name(prompt, what): term for what, term in of_prompt.items()})
        for _, by_name in drawn.scored[p]:
            join(found, {_name(prompt, f"reward/{name}"): Term(value, 1) for name, value in by_name.items()})
    return found


def measure_tokens(drawn: Drawn, what: str, values_L: torch.Tensor) -> Terms:
    """The mean of a number of each token, for each source and each of its tasks."""
    found: dict[Name, Term] = {}
    sums = sum_answers(values_L.detach(), drawn.lengths_A).view(len(drawn.prompts), -1).sum(1).cpu().tolist()
    tokens = drawn.lengths_A.view(len(drawn.prompts), -1).sum(1).tolist()
    for prompt, total, count in zip(drawn.prompts, sums, tokens, strict=True):
        join(found, {_name(prompt, what): Term(total, count)})
    return found


def _name(prompt: Prompt, what: str) -> OfSource:
    return OfSource(prompt.source, f"{prompt.truth.task}/{what}")
