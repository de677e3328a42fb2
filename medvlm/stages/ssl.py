"""Trains an encoder on images alone: what it is taught with is a method of medvlm/objectives/ssl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.config import Slot, component
from medvlm.core.errors import DataError, did_you_mean
from medvlm.core.needs import Needs, Toy
from medvlm.core.problems import Problem
from medvlm.core.sample import Sample
from medvlm.core.stage_config import StageConfig
from medvlm.data.order import draw
from medvlm.data.source import make_filter
from medvlm.models.parts import evaluating
from medvlm.models.pretraining import Pretraining, Views
from medvlm.objectives.ssl._base import Moment
from medvlm.stages import _probe
from medvlm.stages._answered import explain_unanswered
from medvlm.stages._base import Base, Setup, Wants, split_evenly
from medvlm.stages._probe import Probe
from medvlm.train.terms import LOSS, Loss, Measured, Name, Term, Terms, join, to_terms

NEEDS = "pretrain"


class Config(StageConfig):
    kind: Literal["ssl"]
    loss: Annotated[Any, Slot("objectives.ssl")]
    """The method, with its own settings."""
    encoder: str = ""
    """The encoder that learns; may be left out if there is only one."""
    canvas: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Size to which images are brought before views are cut out of them, by default that of the encoder's input. With a
    larger one, small views keep more detail."""
    keeps: Literal["teacher", "student"] = "teacher"
    """Which weights the encoder has at the end, for methods with a teacher. Published models are teachers."""
    check_every: int = Field(20, ge=0)
    """Steps between checks that the features have not collapsed; 0: never."""
    probe: Probe | None = None
    """Measures the encoder on a labelled source at each validation; needs `validate`."""

    @model_validator(mode="after")
    def _refuse_idle_probe(self) -> Self:
        if self.probe and not self.validate_:
            raise ValueError("probe measures at each validation, and there is none; add validate: {every: ...}")
        return self

    @model_validator(mode="after")
    def _refuse_accumulation(self) -> Self:
        if self.accumulate != 1 and self.loss.joins_samples:
            raise ValueError(
                f"accumulate: {self.loss.kind} compares the samples of a batch with each other, so it cannot be split;"
                " leave it at 1"
            )
        chooses = {"keep: best": self.keep == "best", "validate.patience": self.validate_ and self.validate_.patience}
        for key in [key for key, is_set in chooses.items() if is_set and self.loss.has_teacher]:
            raise ValueError(f"{key} goes by a loss that the teacher itself sets; remove it")
        return self

    def find_needs(self, model: Any) -> Needs:
        return Needs(media=True)

    def list_beside(self) -> dict[tuple[str, ...], str]:
        return {("probe", "source"): self.probe.source} if self.probe else {}

    def list_decoders(self) -> tuple[Any, ...]:
        decoder = self.loss.find_decoder()
        return (decoder,) if decoder else ()

    def find_encoder(self, encoders: Mapping[str, Any]) -> str:
        return self.encoder or next(iter(encoders))

    def list_smaller(self, micro: int) -> dict[int, str]:
        return {} if self.loss.joins_samples else super().list_smaller(micro)

    def scale_down(self, toy: Toy) -> Self:
        # Made-up samples do not have the probe's question.
        small = {"loss": self.loss.scale_down(), "canvas": (), "probe": None}
        return super().scale_down(toy).model_copy(update=small)

    def check(self, model: Any, cards: Mapping[str, Any]) -> Iterator[Problem]:
        encoders = model.encoders
        if why := self.loss.explain_unfit():
            yield Problem(("loss",), why)
        elif (decoder := self.loss.find_decoder()) and (why := explain_unanswered("decoder", decoder, cards)):
            yield Problem(("loss", "decoder"), why.replace("model.decoders.decoder", "loss.decoder"))
        if self.encoder and self.encoder not in encoders:
            near, known = did_you_mean(self.encoder, encoders), ", ".join(encoders) or "none"
            yield Problem(("encoder",), f"there is no encoder {self.encoder!r}{near} (model.encoders has {known})")
        elif not self.encoder and len(encoders) > 1:
            yield Problem(("encoder",), f"is missing: the model has several ({', '.join(encoders)}); name one")
        elif encoders:
            config = encoders[self.find_encoder(encoders)]
            before = component("encoders", config.kind).preprocess(config)
            if before.tiles or before.stack > 1:
                yield Problem(("encoder",), "takes several views as one input (tiles, stack); views are cut from one")
            if self.canvas and len(self.canvas) != len(before.size):
                yield Problem(("canvas",), f"expected {len(before.size)} sides, as preprocess.size has")


@dataclass(frozen=True)
class Seen:
    """What the method sees of a sample."""

    key: str
    tensors: dict[str, torch.Tensor]
    source: str = ""


def build(config: Config, setup: Setup) -> Ssl:
    return Ssl(config, setup)


class Ssl(Base):
    """Cuts views out of the first medium of a sample, keyed by the sample's position."""

    config: Config
    teacher: Pretraining | None = None

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.model: Pretraining = setup.composition.build(setup, config)
        self.prepare = setup.prepare
        if canvas := config.canvas or self.model.objective.canvas:
            self.prepare = setup.prepare.resize(self.model.name, canvas)
        self.decoder = config.loss.find_decoder()
        self._upcoming: dict[str, torch.Tensor] = {}
        self._collapse = ""

    def begin(self) -> None:
        if probe := self.config.probe:
            for split in _probe.SPLITS:
                _probe.require_answers(probe, self.setup.open_source(probe.source, split, self.wants), split)

    @property
    def wants(self) -> Wants:
        return make_filter(media=lambda kind: self.setup.prepare.routes.get(kind) == self.model.name)

    def keep_asked(self, sample: Sample) -> Sample:
        asked = self.decoder.answers if self.decoder else None
        questions = tuple(question for question in sample.questions if question.template == asked)
        return replace(sample, questions=questions, media=sample.media[:1])

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Seen:
        kept = self.keep_asked(sample)
        _, pixels = self.prepare.see(kept, files).media[0]
        rng = draw(self.setup.seed, self.config.name, "views", position)
        if self.decoder is None:
            return Seen(sample.key, self.model.objective.draw(pixels, rng))
        labels = None
        if kept.questions:
            labels = torch.from_numpy(self.prepare.labels(kept, kept.questions[0], files, self.decoder))
        return Seen(sample.key, self.model.objective.draw(pixels, rng, labels))

    def make_micros(self, prepared: list[Seen], count: int) -> list[Views]:
        return [collate(part) for part in split_evenly(prepared, count)]

    def make_extra_models(self) -> dict[str, nn.Module]:
        if not self.config.loss.has_teacher:
            return {}
        self.teacher = self.model.copy_teacher(self.config.loss.averages_encoder)
        return {"teacher": self.teacher}

    def weigh(self, micro: Views) -> dict[str, float]:
        found: dict[str, float] = self.model.objective.weigh(micro.tensors)
        return found

    def compute_loss(self, model: nn.Module, micro: Views, step: int) -> Measured:
        views, objective, weights = micro.to(self.engine.device), self.model.objective, self.weigh(micro)
        own, taught = model(views), {}
        memory = self.teacher.memory if self.teacher else {}
        if self.teacher:
            with torch.no_grad(), self.engine.autocast():
                taught = self.teacher(views, {name: each.detach() for name, each in own.items()})
        moment = Moment(step / max(1, self.config.steps), self.engine.rank, self.engine.gather, memory)
        sums = objective.add_up(moment, views.tensors, own, taught)
        found: dict[Name, Loss | Term] = {name: Loss(each, weights[name]) for name, each in sums.items()}
        if torch.is_grad_enabled():
            self._upcoming = moment.upcoming
            is_due = self.config.check_every and (step + 1) % self.config.check_every == 0
            if is_due and not own["pooled_NE"].is_meta:  # a plan has no values
                with torch.no_grad():
                    found |= self._diagnose(objective.diagnose(moment, own, taught), step)
        return found

    def _diagnose(self, found: Mapping[str, tuple[float, float]], step: int) -> dict[Name, Term]:
        for name, (value, least) in found.items():
            if value < least:
                self._collapse = f"stage {self.config.name}, step {step + 1}: {name} is {value:.3g}, below {least:g}"
        return {name: Term(value, 1.0) for name, (value, _) in found.items()}

    def after_step(self, step: int) -> None:
        if self._collapse:
            raise DataError(
                f"{self._collapse}: the encoder has collapsed, and gives all images the same features; lower optim.lr,"
                " or give the method what keeps images apart (its centring, its temperatures, a larger batch)"
            )
        if self.teacher is None:
            return
        find_momentum = partial(self.model.objective.find_momentum_of, done=step / self.config.steps)
        self.teacher.follow(self.model, find_momentum, self._upcoming)
        is_result = self.config.keeps == "teacher" and self.config.loss.hands_on_teacher
        if step + 1 == self.config.steps and is_result:
            now = dict(self.model.named_parameters())
            for name, mean in self.teacher.named_parameters():
                if name.startswith("encoders."):
                    now[name].copy_(mean)

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """The mean of each loss over whole batches of the validation samples, and their sum."""
        items = self.prepare_validation(samples)
        size = min(self.config.batch // self.engine.world, len(items))
        found: dict[Name, Term] = {}
        with evaluating(self.model):
            for at in range(0, len(items) - size + 1, size):
                micro = collate(items[at : at + size])
                join(found, to_terms(self.compute_loss(model, micro, self.config.steps)))
        totals = self.engine.sum_over_ranks([number for term in found.values() for number in term])
        means = [total / weight if weight else 0.0 for total, weight in zip(totals[::2], totals[1::2], strict=True)]
        return {**found, LOSS: Term(sum(means), 1.0), **self._measure_probe()}

    def _measure_probe(self) -> Terms:
        """Of the teacher's encoder, if it has one."""
        probe = self.config.probe
        if probe is None:
            return {}
        is_result = self.teacher is not None and self.config.loss.hands_on_teacher and len(self.teacher.encoders)
        holder = self.teacher if self.teacher is not None and is_result else self.model
        views = [self.setup.open_source(probe.source, split, self.wants) for split in _probe.SPLITS]

        def see(sample: Sample, files: Mapping[str, Any]) -> torch.Tensor:
            _, pixels = self.setup.prepare.see(self.keep_asked(sample), files).media[0]
            return pixels  # type: ignore[no-any-return]

        with self.engine.gather_weights(holder):
            return _probe.measure(probe, views, holder.encoders[holder.name], see, self.engine)


def collate(items: list[Seen]) -> Views:
    names = items[0].tensors
    stacked = {name: torch.stack([item.tensors[name] for item in items]) for name in names}
    return Views(stacked, tuple(item.key for item in items))
