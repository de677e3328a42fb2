"""Trains a language model to answer. Alignment, instruction tuning and reading differ only in `trains` and data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from medvlm.core.errors import RecipeError
from medvlm.core.sample import Batch, Question, Sample
from medvlm.core.turns import show_until
from medvlm.data.budget import TooLong, partition, shrink_to_fit
from medvlm.data.dialogue import TokenSequence
from medvlm.data.lessons import reword, train_everything, train_last, weigh_document
from medvlm.data.prepare import Seen, choose_dialogues
from medvlm.data.rationale import write_questions
from medvlm.data.row_plan import PlannedStep, RowPlanner, Rows, fill_rows, find_load, is_within, split_rows
from medvlm.models.parts import evaluating
from medvlm.objectives.next_token import answer_losses, read_losses, sum_answer_weights
from medvlm.stages._base import Base, Setup, add_up_means, split_evenly
from medvlm.stages._drawing import DrawnAnswers, Targets
from medvlm.stages._image_check import ImageCheck
from medvlm.stages._rows import find_heaviest_row, make_row_planner
from medvlm.stages._supervised_config import Config
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, OfSource, Term, Terms, join, to_terms

NEEDS = "answer"
TEXT = "text"
"""The loss of the tokens beside those of masks."""


def build(config: Config, setup: Setup) -> Supervised:
    return Supervised(config, setup)


class Supervised(Base):
    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.model = setup.composition.build(setup, config)
        self.image_check = ImageCheck(config.name, setup.engine)
        self.drawing = DrawnAnswers(config.draws, config.name, setup, self.model.reads) if config.draws else None
        self.planned: PlannedStep | None = None
        """The present step, if rows are planned."""
        if config.rows and not setup.prepare.shares_rows:
            raise RecipeError(
                f"stages.{config.name}.rows: this model reads its prompts in both directions, so samples cannot share a"
                " row; use micro_tokens instead"
            )

    def read_batches(self, consumed: int) -> Iterator[tuple[int, list[TokenSequence]]]:
        if self.config.rows is None:
            return super().read_batches(consumed)
        self.row_planner = make_row_planner(self, self.config.rows)
        return self._note_rows(self.row_planner, super().read_batches(consumed))

    def _note_rows(
        self, planner: RowPlanner, batches: Iterator[tuple[int, list[TokenSequence]]]
    ) -> Iterator[tuple[int, list[TokenSequence]]]:
        with closing(batches):  # type: ignore[type-var]
            for first, items in batches:
                self.planned = planner.at(first)
                yield first, [replace(item, row=row) for item, row in zip(items, self.planned.rows, strict=True)]

    def set_modes(self) -> None:
        super().set_modes()
        self.model.runs_all &= "media" in self.config.shows

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> TokenSequence:
        config = self.config
        tasks = config.asked_tasks if sample.media else config.text_tasks
        targets: Targets = {}
        if self.drawing and sample.media:
            sample, targets = self.drawing.speak(sample, files, position, self.setup.prepare)
        weigh = config.loss_weights.weigh
        questions = choose_dialogues(sample, tasks, weigh, config.questions, epoch, self.setup.seed, config.name)
        sample = show_until(sample, questions[0])
        if config.loss == "last":
            questions = [train_last(question) for question in questions]
        if config.prompts:
            key = (self.setup.seed, config.name, position)
            questions = [reword(question, config.prompts, *key) for question in questions]
        if config.rationale:
            questions = [each for question in questions for each in write_questions(question, config.rationale)]
        prepare, shows, limit = self.setup.prepare, self.config.shows, self.config.max_tokens
        seen = prepare.see(sample, files) if "media" in shows else Seen([], None)
        made = self._write(sample, questions, seen)
        if self.drawing:
            made = self.drawing.mark(made, questions, targets)
        if len(made) <= limit:
            return made
        where = (
            f"{sample.source}/{sample.key}: {len(made)} tokens including its images, but"
            f" stages.{self.config.name}.max_tokens is {limit}"
        )
        if self.config.overlong == "drop":
            raise TooLong(f"{where}; dropped")
        if self.config.overlong == "error":
            raise RecipeError(
                f"{where}; raise it, ask fewer `questions`, or choose with `overlong` what to do with such samples"
            )
        fits = shrink_to_fit(
            lambda scale: self._write(sample, questions, prepare.see(sample, files, scale)),
            made,
            prepare.num_image_tokens(seen),
            limit,
        )
        if fits is None:
            raise RecipeError(
                f"{where}, and it does not fit with smaller images either; raise it, ask fewer `questions`, or drop"
                " such samples"
            )
        return fits

    def _write(self, sample: Sample, questions: list[Question], seen: Seen) -> TokenSequence:
        prepare = self.setup.prepare
        made = prepare.document(sample, questions, seen, self.config.shows)
        return train_everything(made, prepare.media_ids) if self.config.loss == "all" else made

    def count(self, prepared: list[TokenSequence]) -> Terms:
        """Adds the mean scale of the images if `overlong` is `reduce`, and how unevenly the ranks are loaded if rows
        are planned."""
        found = dict(super().count(prepared))
        if self.planned and self.engine.world > 1:
            tokens, pixels = self.planned.uneven  # the same on every rank, so the mean is the number itself
            found |= {"uneven_tokens": Term(tokens, 1), "uneven_pixels": Term(pixels, 1)}
        for document in prepared if self.config.overlong == "reduce" else []:
            join(found, {OfSource(document.source, "scale"): Term(document.scale, 1)})
        return found

    def count_tokens(self, item: TokenSequence) -> int:
        return len(item)

    def choose_heaviest(self, items: list[TokenSequence]) -> list[TokenSequence]:
        return find_heaviest_row(items, self.config.rows) if self.config.rows else []

    def describe_micro(self, micro: int) -> str:
        rows = self.config.rows
        return rows.describe() if rows else super().describe_micro(micro)

    def make_micros(self, prepared: list[TokenSequence], count: int) -> list[Batch]:
        return [self._collate(part) for part in self._split(prepared, count)]

    def _split(self, prepared: list[TokenSequence], count: int) -> list[list[TokenSequence]]:
        config = self.config
        if config.rows and prepared[0].row is not None:
            return self._keep_budget(prepared, config.rows)
        if not config.rows and not config.micro_tokens:
            return split_evenly(prepared, count)
        # A rank that needs more micro-batches makes all ranks use more, until one number fits them all.
        while True:
            if config.rows:
                filled = fill_rows([find_load(d) for d in prepared], config.rows, count)
                parts = [[prepared[i] for i in row] for row in filled]
            else:
                parts = partition(prepared, count, config.micro_tokens)
            most = max(int(n) for n in self.engine.merge_names([str(len(parts))]))
            if most == len(parts) == count:
                return parts
            if most >= len(prepared):
                return [[document] for document in prepared]
            count = most

    def _keep_budget(self, prepared: list[TokenSequence], rows: Rows) -> list[list[TokenSequence]]:
        """The planned rows, or others if a sample is longer than planned, the same number on every rank."""
        loads = [find_load(document) for document in prepared]
        of_row: dict[int | None, list[int]] = {}
        for i, document in enumerate(prepared):
            of_row.setdefault(document.row, []).append(i)
        filled = list(of_row.values())
        if not all(is_within([loads[i] for i in row], rows) for row in filled):
            filled = fill_rows(loads, rows, len(filled))
        filled = split_rows(filled, self.engine.find_most(len(filled)))
        # A rank with fewer samples than rows passes one of them again, with nothing to train.
        spare = min(prepared, key=len)
        spare = replace(spare, answers=[[] for _ in spare.branches], strokes=[])
        return [[prepared[i] for i in row] or [spare] for row in filled]

    def _collate(self, documents: list[TokenSequence]) -> Batch:
        factors = self.config.loss_weights.sources
        weighed = [weigh_document(d, factors[d.source]) if d.source in factors else d for d in documents]
        width = self.config.rows.tokens if self.config.rows else 0
        return self.setup.prepare.collate(weighed, self.setup.tokenizer.pad_token_id, width=width)

    def weigh(self, micro: Batch) -> dict[str, float]:
        drawn = self.drawing.weigh(micro) if self.drawing else {}
        if self.config.weigh == "answers":
            return {self.text_loss: sum_answer_weights(micro.answers_L, micro.weights_L), **drawn}
        weight = len(micro.targets_L) if micro.weights_L is None else float(micro.weights_L.double().sum())
        return {self.text_loss: weight, **drawn}

    @property
    def text_loss(self) -> str:
        """The name of the loss of the tokens, which is the only one of a stage that draws nothing."""
        return TEXT if self.drawing else LOSS

    def compute_loss(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        weights = self.weigh(micro)
        micro = micro.to(self.engine.device)
        if torch.is_grad_enabled():
            self.image_check.look(self.model, micro)
        found = model(micro, read_losses)
        losses_L = found["losses_L"]
        shares_L = answer_losses(losses_L, micro.answers_L) if self.config.weigh == "answers" else losses_L
        loss = (shares_L if micro.weights_L is None else shares_L * micro.weights_L).sum()
        return {
            self.text_loss: Loss(loss, weights[self.text_loss]),
            **(self.drawing.measure(found, micro, weights) if self.drawing else {}),
            "token_accuracy": Term(float(found["is_right_L"].sum()), len(micro.targets_L)),
            TOKENS: Term(float((micro.docs_BT >= 0).sum())),
            "padding": Term(float((micro.docs_BT < 0).sum()), micro.docs_BT.numel()),
            **_measure_by_source(losses_L.detach(), micro),
        }

    def validate(self, model: nn.Module, samples: int) -> Terms:
        documents = self.prepare_validation(samples)
        size = max(1, self.config.batch // self.engine.world)
        found: dict[Name, Term] = {}
        with evaluating(self.model):
            for at in range(0, len(documents), size):
                for micro in self.make_micros(documents[at : at + size], 1):  # several with `micro_tokens` or `rows`
                    join(found, to_terms(self.compute_loss(model, micro, self.config.steps)))
        if self.drawing is None:
            return {name: found[name] for name in (LOSS, "token_accuracy")}
        names = (TEXT, *self.drawing.list_losses())
        losses: dict[Name, Term] = {name: found.get(name, Term(0.0)) for name in names}
        return {LOSS: add_up_means(losses, self.engine), **losses, "token_accuracy": found["token_accuracy"]}


def _measure_by_source(losses_L: torch.Tensor, micro: Batch) -> Terms:
    """The number of trained tokens and their mean loss, for each source."""
    names = sorted(set(micro.sources))
    places = [names.index(source) for source in micro.sources]
    of_answer = torch.tensor(places, dtype=torch.long, device=losses_L.device)
    tokens = of_answer[micro.answers_L].bincount(minlength=len(names)).tolist()
    losses = torch.zeros(len(names), device=losses_L.device).index_add(0, of_answer[micro.answers_L], losses_L).tolist()
    found: dict[Name, Term] = {}
    for name, n, loss in zip(names, tokens, losses, strict=True):
        found[OfSource(name, "loss")] = Term(loss, float(n))
        found[OfSource(name, "tokens")] = Term(float(n))
    return found
