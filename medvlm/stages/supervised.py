"""Trains a language model to answer. Alignment, instruction tuning and reading differ only in `trains` and data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.errors import RecipeError, did_you_mean, list_some
from medvlm.core.needs import Needs, Toy
from medvlm.core.sample import Batch, Question, Sample
from medvlm.core.stage_config import StageConfig
from medvlm.core.tasks import TextTask, find_task, list_text_tasks
from medvlm.core.turns import show_until
from medvlm.data.budget import Overlong, TooLong, partition, shrink_to_fit
from medvlm.data.dealing import Dealer, Dealt, Rows, fill_rows, find_load
from medvlm.data.dialogue import TokenSequence
from medvlm.data.lessons import LossWeights, reword, train_everything, train_last, weigh_document
from medvlm.data.prepare import Seen, choose_dialogues
from medvlm.data.rationale import Order, write_questions
from medvlm.models.parts import evaluating
from medvlm.objectives.next_token import answer_losses, read_losses, sum_answer_weights
from medvlm.stages._base import Base, Setup, split_evenly
from medvlm.stages._image_check import ImageCheck
from medvlm.stages._rows import find_heaviest_row, make_dealer
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, OfSource, Term, Terms, join, to_terms

NEEDS = "answer"


class Config(StageConfig):
    kind: Literal["supervised"]
    shows: tuple[Literal["media", "report"], ...] = ("media",)
    """What the model gets in addition to the question. With [report] alone it learns to read: no image is decoded and
    no encoder runs."""
    without_media: bool = Field(False, exclude_if=lambda without: not without)
    """Also uses samples without media, which are trained as texts beside those with images. Their questions may be of
    all `tasks` except those with answers in coordinates."""
    tasks: tuple[TextTask, ...] = ()
    """Tasks whose questions are asked. By default all tasks with text answers; without images, all of these except
    tasks with answers in coordinates, such as `boxes`. [report] is captioning."""
    questions: int = Field(1, gt=0)
    """Questions per sample and step. They share the images of the sample, which are read once."""
    rationale: Order | Literal[""] = ""
    """Trains on the `steps` of the questions too: before the answer (`before`), behind it (`after`), or as a
    question of its own, and then given with the question (`apart`). Questions without steps cannot be used. The
    protocol `before` asks with the same setting."""
    weigh: Literal["tokens", "answers"] = "tokens"
    """What has equal weight in the loss: every trained token, or every answer, whatever its length."""
    loss: Literal["answers", "last", "all"] = Field("answers", exclude_if=lambda loss: loss == "answers")
    """What is trained of a dialogue: every answer, only the last one, or everything but media (`all`): its questions
    and system prompt too."""
    loss_weights: LossWeights = Field(LossWeights(), exclude_if=lambda weights: weights == LossWeights())
    """Factors on the loss by source, task and turn."""
    prompts: dict[TextTask, tuple[str, ...]] = Field({}, exclude_if=lambda prompts: not prompts)
    """Task -> wordings, one of which is drawn each time a question of the task is used: {report: [Write the report.,
    Describe the findings.]}. {question} in a wording is the question's own text, which is needed where it has options.
    Evaluation asks in the words of the data."""
    max_tokens: int = Field(2048, gt=0)
    """Maximum number of tokens of a sample, including its images."""
    overlong: Overlong = "error"
    """What to do with a longer sample, which is never cut. `error` stops. `drop` replaces it by another sample and
    counts it. `reduce` shrinks all its images by the same factor until it fits, for ready models that take images of
    any size."""
    micro_tokens: int = Field(0, ge=0)
    """Maximum number of tokens of a micro-batch, including padding. A step gets as many micro-batches as needed, the
    same number on every rank. 0: no maximum."""
    rows: Rows | None = Field(None, exclude_if=lambda rows: rows is None)
    """Makes every micro-batch one row, filled with samples up to a budget. The samples of a step are dealt over the
    ranks so that each has about as many tokens and pixels as the others."""

    @model_validator(mode="after")
    def _require_media_for_coordinates(self) -> Config:
        for task in self.tasks if "media" not in self.shows else ():
            if find_task(task).NEEDS_CANVAS:
                raise ValueError(
                    f"tasks: {task} are written in coordinates of an image, and `shows` has no media; add it, or leave"
                    f" {task} out"
                )
        return self

    @model_validator(mode="after")
    def _can_ask_without_media(self) -> Config:
        if self.without_media and "media" not in self.shows:
            raise ValueError("without_media: `shows` has no media, so no sample needs any; remove it")
        if self.without_media and not self.text_tasks:
            raise ValueError(
                f"without_media: {', '.join(self.tasks)} are written in coordinates of an image; add a task that can be"
                " asked without one, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_sample_fits(self) -> Config:
        if self.micro_tokens and self.micro_tokens < self.max_tokens:
            raise ValueError(
                f"micro_tokens: {self.micro_tokens} is less than max_tokens, {self.max_tokens}, the limit of one"
                " sample; raise micro_tokens or lower max_tokens"
            )
        return self

    @model_validator(mode="after")
    def _check_rows(self) -> Config:
        if not self.rows:
            return self
        if self.rows.tokens < self.max_tokens:
            raise ValueError(
                f"rows.tokens: {self.rows.tokens} is less than max_tokens, {self.max_tokens}, the limit of one sample;"
                " raise rows.tokens or lower max_tokens"
            )
        if self.micro_tokens or self.accumulate != 1:
            which = "micro_tokens" if self.micro_tokens else "accumulate"
            raise ValueError(f"{which}: with `rows`, every row is a micro-batch; remove it, or `rows`")
        return self

    @model_validator(mode="after")
    def _check_loss(self) -> Config:
        if self.loss == "all" and (self.questions > 1 or self.rationale == "apart"):
            raise ValueError("loss: all trains one question or dialogue per sample and step; set questions: 1")
        if self.loss == "all" and self.weigh == "answers":
            raise ValueError("loss: all trains more than answers; set weigh: tokens")
        for name, given, known in (
            ("loss_weights.sources", self.loss_weights.sources, self.mix),
            ("loss_weights.tasks", self.loss_weights.tasks, self.asked_tasks),
            ("prompts", self.prompts, self.asked_tasks),
        ):
            for key in given:
                if key not in known:
                    raise ValueError(
                        f"{name}: {key!r} is not used by this stage{did_you_mean(key, known)} (it uses"
                        f" {list_some(sorted(known))})"
                    )
        if empty := [
            task for task, wordings in self.prompts.items() if not all(map(str.strip, wordings)) or not wordings
        ]:
            raise ValueError(f"prompts: {empty[0]} has no wording, or an empty one")
        if self.loss_weights.turns and not any(self.loss_weights.turns):
            raise ValueError("loss_weights.turns: all are 0, so nothing is trained")
        return self

    def find_needs(self, model: Any) -> Needs:
        has_media, has_report = "media" in self.shows, "report" in self.shows
        texts = self.text_tasks if self.without_media else ()
        return Needs(self.asked_tasks, report=has_report, media=has_media, steps=bool(self.rationale), texts=texts)

    def shows_media(self) -> bool:
        return "media" in self.shows

    def shares_prompts(self) -> bool:
        return self.questions > 1 or self.rationale == "apart"

    def reduces_images(self) -> bool:
        return self.overlong == "reduce"

    def find_token_limit(self) -> int:
        return self.max_tokens

    def list_smaller(self, micro: int) -> dict[int, str]:
        if not self.rows:
            return super().list_smaller(micro)
        return self.rows.list_smaller(f"stages.{self.name}", self.max_tokens)

    def scale_down(self, toy: Toy) -> Config:
        """Token limits get the toy's value, because a small tokenizer makes more tokens of a text than the real one."""
        bounds: dict[str, Any] = {
            "max_tokens": toy.sample_tokens,
            "micro_tokens": self.micro_tokens and toy.sample_tokens,
        }
        if self.rows:
            bounds["rows"] = self.rows.model_copy(update={"tokens": toy.sample_tokens})
        return super().scale_down(toy).model_copy(update=bounds)

    @property
    def asked_tasks(self) -> tuple[str, ...]:
        return self.tasks or (tuple(list_text_tasks()) if "media" in self.shows else self.text_tasks)

    @property
    def text_tasks(self) -> tuple[str, ...]:
        """Those of the tasks that can be asked without media."""
        return tuple(kind for kind in self.tasks or list_text_tasks() if not find_task(kind).NEEDS_CANVAS)


def build(config: Config, setup: Setup) -> Supervised:
    return Supervised(config, setup)


class Supervised(Base):
    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.model = setup.composition.build(setup, config)
        self.image_check = ImageCheck(config.name, setup.engine)
        self.dealt: Dealt | None = None
        """The present step, if rows are planned."""
        if config.rows and not setup.prepare.shares_rows:
            raise RecipeError(
                f"stages.{config.name}.rows: this model reads its prompts in both directions, so samples cannot share a"
                " row; use micro_tokens instead"
            )

    def read_batches(self, consumed: int) -> Iterator[tuple[int, list[TokenSequence]]]:
        if self.config.rows is None:
            return super().read_batches(consumed)
        self.dealer = make_dealer(self, self.config.rows)
        return self._note_rows(self.dealer, super().read_batches(consumed))

    def _note_rows(
        self, dealer: Dealer, batches: Iterator[tuple[int, list[TokenSequence]]]
    ) -> Iterator[tuple[int, list[TokenSequence]]]:
        with closing(batches):  # type: ignore[type-var]
            for first, items in batches:
                self.dealt = dealer.at(first)
                yield first, [replace(item, row=row) for item, row in zip(items, self.dealt.rows, strict=True)]

    def set_modes(self) -> None:
        super().set_modes()
        self.model.runs_all &= "media" in self.config.shows

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> TokenSequence:
        config = self.config
        tasks = config.asked_tasks if sample.media else config.text_tasks
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
        if self.dealt and self.engine.world > 1:
            tokens, pixels = self.dealt.uneven  # the same on every rank, so the mean is the number itself
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
            return [[d for d in prepared if d.row == row] for row in dict.fromkeys(d.row for d in prepared)]
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

    def _collate(self, documents: list[TokenSequence]) -> Batch:
        factors = self.config.loss_weights.sources
        weighed = [weigh_document(d, factors[d.source]) if d.source in factors else d for d in documents]
        width = self.config.rows.tokens if self.config.rows else 0
        return self.setup.prepare.collate(weighed, self.setup.tokenizer.pad_token_id, width=width)

    def weigh(self, micro: Batch) -> dict[str, float]:
        if self.config.weigh == "answers":
            return {LOSS: sum_answer_weights(micro.answers_L, micro.weights_L)}
        return {LOSS: len(micro.targets_L) if micro.weights_L is None else float(micro.weights_L.double().sum())}

    def compute_loss(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        weight = self.weigh(micro)[LOSS]
        micro = micro.to(self.engine.device)
        if torch.is_grad_enabled():
            self.image_check.look(self.model, micro)
        found = model(micro, read_losses)
        losses_L = found["losses_L"]
        shares_L = answer_losses(losses_L, micro.answers_L) if self.config.weigh == "answers" else losses_L
        loss = (shares_L if micro.weights_L is None else shares_L * micro.weights_L).sum()
        return {
            LOSS: Loss(loss, weight),
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
        return {name: found[name] for name in (LOSS, "token_accuracy")}


def _measure_by_source(losses_L: torch.Tensor, micro: Batch) -> Terms:
    """The number of trained tokens and their mean loss, for each source."""
    names = sorted(set(micro.sources))
    of_answer = torch.tensor([names.index(source) for source in micro.sources], device=losses_L.device)
    tokens = of_answer[micro.answers_L].bincount(minlength=len(names)).tolist()
    losses = torch.zeros(len(names), device=losses_L.device).index_add(0, of_answer[micro.answers_L], losses_L).tolist()
    found: dict[Name, Term] = {}
    for name, n, loss in zip(names, tokens, losses, strict=True):
        found[OfSource(name, "loss")] = Term(loss, float(n))
        found[OfSource(name, "tokens")] = Term(float(n))
    return found
