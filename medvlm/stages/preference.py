"""Learns from pairs of answers: the preferred one becomes more probable than the rejected one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.config import Slot
from medvlm.core.errors import RecipeError
from medvlm.core.needs import Needs, Toy
from medvlm.core.sample import Question, Sample
from medvlm.core.stage_config import StageConfig
from medvlm.core.tasks import list_pair_tasks
from medvlm.core.turns import show_until
from medvlm.data.budget import TooLong
from medvlm.data.dialogue import TokenSequence
from medvlm.data.prepare import choose
from medvlm.objectives.preferences._contract import SLOT, make_default
from medvlm.stages._base import Setup, split_evenly
from medvlm.stages._pairs import Pairs, PairStage
from medvlm.train.terms import LOSS, Name, Term, Terms, join, to_terms

NEEDS = "answer"


class Config(StageConfig):
    kind: Literal["preference"]
    objective: Annotated[Any, Slot(SLOT, or_default=True)] = Field(default_factory=make_default)
    """What is learned from a pair: a kind, or its settings."""
    max_tokens: int = Field(2048, gt=0)
    """Maximum number of tokens of a pair: the question with its images, and both answers."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with a longer pair, which is never cut: `drop` replaces it by another one and counts it."""

    def find_needs(self, model: Any) -> Needs:
        return Needs(list_pair_tasks(), media=True)

    def shares_prompts(self) -> bool:
        return True

    def find_token_limit(self) -> int:
        return self.max_tokens

    def scale_down(self, toy: Toy) -> Config:
        return super().scale_down(toy).model_copy(update={"max_tokens": toy.sample_tokens})


@dataclass(frozen=True)
class Pair:
    """document: a question with two answers, the preferred one first."""

    key: str
    document: TokenSequence
    source: str = ""


def build(config: Config, setup: Setup) -> Preference:
    return Preference(config, setup)


class Preference(PairStage):
    """Both answers share the prompt and its images, which are computed once."""

    config: Config

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Pair:
        (question,) = choose(sample, list_pair_tasks(), 1, epoch, self.setup.seed, self.config.name)
        document = self._write(show_until(sample, question), files, question)
        if len(document) > self.config.max_tokens:
            where = (
                f"{sample.source}/{sample.key}: {len(document)} tokens including its images and both answers, but"
                f" stages.{self.config.name}.max_tokens is {self.config.max_tokens}"
            )
            if self.config.overlong == "drop":
                raise TooLong(f"{where}; dropped")
            raise RecipeError(f"{where}; raise it, or drop such pairs with overlong: drop")
        return Pair(sample.key, document)

    def _write(self, sample: Sample, files: Mapping[str, Any], question: Question) -> TokenSequence:
        prepare, truth = self.setup.prepare, question.truth
        texts = truth.answer, truth.rejected  # type: ignore[attr-defined]
        seen = prepare.see(sample, files)
        prompt = prepare.document(sample, [question], seen, ["media"], answered=False)
        answers = []
        for better, worse in (texts, texts[::-1]):
            pair: Any = {"answer": better, "rejected": worse}
            asked = replace(question, truth=replace(truth, **pair))
            answers.append((list(prepare.turn(sample, asked, seen, ["media"], answered=True).answer), 0))
        prefix = [*prompt.prefix, *(token for ids, _ in prompt.branches for token in ids)]
        return replace(prompt, prefix=prefix, branches=answers)

    def count_tokens(self, item: Pair) -> int:
        return len(item.document)

    def make_micros(self, prepared: list[Pair], count: int) -> list[Pairs]:
        micros = [self._collate(part) for part in split_evenly(prepared, count)]
        for micro in micros if self.policy.reference else []:
            micro.reference_N2 = self._add_up(self.policy.compute_reference(micro.batch), micro)
        return micros

    def make_heaviest(self, items: list[Pair]) -> Pairs:
        micro = self._collate(items)
        return replace(micro, reference_N2=torch.zeros(len(items), 2) if self.objective.NEEDS_REFERENCE else None)

    def _collate(self, pairs: list[Pair]) -> Pairs:
        documents = [pair.document for pair in pairs]
        batch = self.setup.prepare.collate(documents, self.setup.tokenizer.pad_token_id)
        lengths = [len(ids) for document in documents for ids, _ in document.branches]
        return Pairs(batch, torch.tensor(lengths), tuple(pair.source for pair in pairs))

    def validate(self, model: nn.Module, samples: int) -> Terms:
        pairs = self.prepare_validation(samples)
        size = max(1, self.config.batch // self.engine.world)
        found: dict[Name, Term] = {}
        with torch.no_grad():
            for at in range(0, len(pairs), size):
                for micro in self.make_micros(pairs[at : at + size], 1):
                    join(found, to_terms(self.compute_loss(model, micro, self.config.steps)))
        return {name: found[name] for name in (LOSS, "preferred", "won", "margin")}
