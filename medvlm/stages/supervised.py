"""The language model learns to answer: alignment, instruction tuning, reading; they differ in `trains` and data
alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.errors import RecipeError
from medvlm.core.sample import Batch, Sample
from medvlm.core.stage_config import StageConfig, Toy
from medvlm.core.tasks import TextTask, find_task, list_text_tasks
from medvlm.data.budget import Overlong, TooLong, partition, shrink_to_fit
from medvlm.data.dialogue import TokenSequence
from medvlm.data.prepare import Seen, choose
from medvlm.data.source import needs
from medvlm.models.parts import evaluating
from medvlm.objectives.next_token import answer_losses, token_losses
from medvlm.stages._base import Base, Setup, Wants, chunks
from medvlm.stages._image_check import ImageCheck
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, OfSource, Term, Terms, join, logged

NEEDS = "answer"


class Config(StageConfig):
    kind: Literal["supervised"]
    shows: tuple[Literal["media", "report"], ...] = ("media",)
    """What the model is given beside the question. [report] alone teaches reading: no image is decoded, no tower
    runs."""
    tasks: tuple[TextTask, ...] = ()
    """Which questions; by default all that a text answers, without images all but those that are answered in
    coordinates, such as `boxes`. [report] is captioning."""
    questions: int = Field(1, gt=0)
    """Questions per sample and step. They share the sample's images, which are read once."""
    weigh: Literal["tokens", "answers"] = "tokens"
    """What counts alike in the loss: every trained token, or every answer, however long."""
    max_tokens: int = Field(2048, gt=0)
    """Of one sample, its images included."""
    overlong: Overlong = "error"
    """What becomes of a longer one; it is never cut. `error` stops, `drop` takes another in its place and counts it,
    `reduce` makes all its images smaller alike until it fits, for ready models that take images of any size."""
    micro_tokens: int = Field(0, ge=0)
    """Of a micro-batch, padding included: a step's samples are dealt into as many micro-batches as it takes, the same
    number on every rank. 0: no bound."""

    @model_validator(mode="after")
    def _coordinates_need_an_image(self) -> Config:
        for task in self.tasks if "media" not in self.shows else ():
            if find_task(task).NEEDS_CANVAS:
                raise ValueError(
                    f"tasks: {task} are written in coordinates of an image, and `shows` has no media; add it, or leave"
                    f" {task} out"
                )
        return self

    @model_validator(mode="after")
    def _a_sample_fits(self) -> Config:
        if self.micro_tokens and self.micro_tokens < self.max_tokens:
            raise ValueError(
                f"micro_tokens: {self.micro_tokens} are fewer than max_tokens, {self.max_tokens}, which one sample may"
                " have; lower max_tokens"
            )
        return self

    def shows_media(self) -> bool:
        return "media" in self.shows

    def reduces_images(self) -> bool:
        return self.overlong == "reduce"

    def most_tokens(self) -> int:
        return self.max_tokens

    def rehearsed(self, toy: Toy) -> Config:
        """A small tokenizer makes more tokens of a text than the real one."""
        bounds = {"max_tokens": toy.sample_tokens, "micro_tokens": self.micro_tokens and toy.sample_tokens}
        return super().rehearsed(toy).model_copy(update=bounds)

    @property
    def asked(self) -> tuple[str, ...]:
        return self.tasks or tuple(
            task for task in list_text_tasks() if "media" in self.shows or not find_task(task).NEEDS_CANVAS
        )


def build(config: Config, setup: Setup) -> Supervised:
    return Supervised(config, setup)


class Supervised(Base):
    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.model = setup.composition.build(setup, config)
        self.image_check = ImageCheck(config.name, setup.engine)

    def set_modes(self) -> None:
        super().set_modes()
        self.model.runs_all &= "media" in self.config.shows

    @property
    def wants(self) -> Wants:
        takes = self.setup.prepare.takes if "media" in self.config.shows else None
        return needs(tasks=self.config.asked, report="report" in self.config.shows, media=takes)

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> TokenSequence:
        questions = choose(sample, self.config.asked, self.config.questions, epoch, self.setup.seed, self.config.name)
        prepare, shows, limit = self.setup.prepare, self.config.shows, self.config.max_tokens
        seen = prepare.see(sample, files) if "media" in shows else Seen([], None)
        made = prepare.document(sample, questions, seen, shows)
        if len(made) <= limit:
            return made
        where = (
            f"{sample.source}/{sample.key}: {len(made)} tokens with its images, stages.{self.config.name}.max_tokens is"
            f" {limit}"
        )
        if self.config.overlong == "drop":
            raise TooLong(f"{where}; dropped")
        if self.config.overlong == "error":
            raise RecipeError(
                f"{where}; raise it, ask fewer `questions`, or say what becomes of such samples with `overlong`"
            )
        fits = shrink_to_fit(
            lambda scale: prepare.document(sample, questions, prepare.see(sample, files, scale), shows),
            made,
            prepare.num_image_tokens(seen),
            limit,
        )
        if fits is None:
            raise RecipeError(
                f"{where}, and no smaller size of its images makes it fit; raise it, ask fewer `questions`, or drop"
                " such samples"
            )
        return fits

    def count(self, prepared: list[TokenSequence]) -> Terms:
        """With the mean scale of images, where they may be reduced."""
        found = dict(super().count(prepared))
        for document in prepared if self.config.overlong == "reduce" else []:
            join(found, {OfSource(document.source, "scale"): Term(document.scale, 1)})
        return found

    def count_tokens(self, item: TokenSequence) -> int:
        return len(item)

    def micros(self, prepared: list[TokenSequence], count: int) -> list[Batch]:
        if not self.config.micro_tokens:
            return [self._collated(part) for part in chunks(prepared, count)]
        while True:
            parts = partition(prepared, count, self.config.micro_tokens)
            most = max(int(n) for n in self.engine.union([str(len(parts))]))
            if most == len(parts) == count or most >= len(prepared):
                return [self._collated(part) for part in partition(prepared, most, 0)]
            count = most

    def _collated(self, documents: list[TokenSequence]) -> Batch:
        return self.setup.prepare.collate(documents, self.setup.tokenizer.pad_token_id)

    def weights(self, micro: Batch) -> dict[str, float]:
        return {LOSS: len(micro.targets_L) if self.config.weigh == "tokens" else len(micro.answers_L.unique())}

    def loss(self, model: nn.Module, micro: Batch, step: int) -> Measured:
        weight = self.weights(micro)[LOSS]
        micro = micro.to(self.engine.device)
        if torch.is_grad_enabled():
            self.image_check.look(self.model, micro)
        logits_LV = model(micro)["logits_LV"]
        right = float((logits_LV.detach().argmax(-1) == micro.targets_L).sum())
        losses_L = token_losses(logits_LV, micro.targets_L)
        loss = (answer_losses(losses_L, micro.answers_L) if self.config.weigh == "answers" else losses_L).sum()
        return {
            LOSS: Loss(loss, weight),
            "token_accuracy": Term(right, len(micro.targets_L)),
            TOKENS: Term(float((micro.docs_BT >= 0).sum())),
            **_terms_by_source(losses_L.detach(), micro),
        }

    def validate(self, model: nn.Module, samples: int) -> Terms:
        documents = self.validation(samples)
        size = max(1, self.config.batch // self.engine.world)
        found: dict[Name, Term] = {}
        with evaluating(self.model):
            for at in range(0, len(documents), size):
                (micro,) = self.micros(documents[at : at + size], 1)
                join(found, logged(self.loss(model, micro, self.config.steps)))
        return {name: found[name] for name in (LOSS, "token_accuracy")}


def _terms_by_source(losses_L: torch.Tensor, micro: Batch) -> Terms:
    """Of each source its trained tokens and their mean loss."""
    names = sorted(set(micro.sources))
    of_answer = torch.tensor([names.index(source) for source in micro.sources], device=losses_L.device)
    tokens = of_answer[micro.answers_L].bincount(minlength=len(names)).tolist()
    losses = torch.zeros(len(names), device=losses_L.device).index_add(0, of_answer[micro.answers_L], losses_L).tolist()
    found: dict[Name, Term] = {}
    for name, n, loss in zip(names, tokens, losses, strict=True):
        found[OfSource(name, "loss")] = Term(loss, float(n))
        found[OfSource(name, "tokens")] = Term(float(n))
    return found
