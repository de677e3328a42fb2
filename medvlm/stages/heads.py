"""Trains decoders on labels and masks, on top of trained or frozen encoders. There is no language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from medvlm.core.config import Slot, component, kinds
from medvlm.core.contracts import Outputs
from medvlm.core.decoder_config import HEAD_LOSSES as SLOT
from medvlm.core.decoder_config import HeadLosses, find_form, reads_tokens, takes_prompts
from medvlm.core.engine_config import SHARDING
from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.needs import Needs, Toy
from medvlm.core.problems import Problem
from medvlm.core.sample import Question, Sample
from medvlm.core.stage_config import StageConfig
from medvlm.core.tasks import find_task, list_tasks
from medvlm.data.bags import choose_media
from medvlm.data.order import draw
from medvlm.data.prompts import Prompt, Tokenize, say
from medvlm.data.stream import Item
from medvlm.data.texts import tokenize_prompt
from medvlm.models.decoding import Labelled, name_output
from medvlm.models.parts import evaluating
from medvlm.stages._answered import explain_unanswered
from medvlm.stages._base import Base, Setup, add_up_means, split_evenly
from medvlm.stages._blend import Blend, blend_sample, draw_mixture
from medvlm.stages._labelled import LabelledSample, collate_labelled, gather_rows
from medvlm.stages._own_terms import add_up_terms, weigh_terms
from medvlm.stages._prompted import add_up_own_terms, check_texts, draw_objects, list_joint, weigh_own_terms
from medvlm.train.terms import LOSS, Loss, Measured, Name, OfSource, Term, Terms, join, to_terms

NEEDS = "decode"
UNSPLIT = "compares the samples of a batch with each other, so the batch cannot be split; leave it at 1"


class Config(StageConfig):
    kind: Literal["heads"]
    losses: dict[str, HeadLosses] = Field(min_length=1)
    """Decoder -> its losses, as kinds or as settings, e.g. {lesion: [dice, {kind: cross_entropy, weight: 0.5}], view:
    [cross_entropy]}. Decoders that are not listed are not trained."""
    sides: dict[str, tuple[PositiveFloat, ...]] = Field({}, exclude_if=lambda sides: not sides)
    """Decoder -> the weights of its losses on each of its side outputs, e.g. {organ: [0.5, 0.25]} (deep supervision,
    arXiv 1409.5185). Labels are taken at the nearest pixel of a smaller side output."""
    text: Annotated[Any, Slot("texts", optional=True)] = Field(None, exclude_if=lambda text: text is None)
    """The text tower, for decoders that read texts. It is frozen unless `trains` lists text."""
    blend: Blend | None = None
    """Mixes each sample with another one of the step (mixup, CutMix). The loss is that of both labels, by their
    shares."""

    def scale_down(self, toy: Toy) -> Self:
        """Losses that compare samples need several of a class."""
        small, every = super().scale_down(toy), (loss for losses in self.losses.values() for loss in losses)
        return small.model_copy(update={"batch": 4 * toy.batch}) if any(map(_is_joint, every)) else small

    def find_needs(self, model: Any) -> Needs:
        decoders = [model.decoders[name] for name in self.losses if name in model.decoders]
        forms = {find_form(decoder) for decoder in decoders}
        return Needs(tuple(kind for kind in list_tasks() if find_task(kind).ANSWERED_BY in forms), media=True)

    def check(self, model: Any, cards: Mapping[str, Any]) -> Iterator[Problem]:
        yield from check_texts(self.text, model)
        for name in self.sides:
            if name not in self.losses:
                near = did_you_mean(name, self.losses)
                yield Problem(("sides", name), f"there is no {name!r} in `losses`{near}")
        for name, losses in self.losses.items():
            path = ("losses", name)
            if name not in model.decoders:
                known = ", ".join(model.decoders) or "none"
                near = did_you_mean(name, model.decoders)
                yield Problem(path, f"there is no decoder {name!r}{near} (model.decoders has {known})")
                continue
            decoder = model.decoders[name]
            if reads_tokens(decoder):
                yield Problem(
                    path, f"{decoder.kind} reads a language model; train it in a supervised stage, by `draws`"
                )
                continue
            output = component("decoders", decoder.kind).OUTPUT
            for number, loss in enumerate(losses):
                judged = decoder.as_one() if takes_prompts(decoder) else decoder
                if why := component(SLOT, loss.kind).refuse(loss, judged, output):
                    yield Problem((*path, number), f"{loss.kind} {why}")
                if _is_joint(loss) and self.accumulate != 1:
                    yield Problem(("accumulate",), f"{name}.{loss.kind} {UNSPLIT}")
            if self.accumulate != 1:
                yield from (Problem(("accumulate",), f"{name}.{term} {UNSPLIT}") for term in list_joint(decoder))
            if self.blend is not None and any(map(_is_joint, losses)):
                yield Problem(("blend",), f"a mixture of two samples has no {name} of its own; remove it")
            if self.blend is not None and takes_prompts(decoder):
                yield Problem(("blend",), f"a prompt of {name} shows an object of one sample; remove it")
            if self.blend is not None and decoder.most_media > 1:
                yield Problem(("blend",), f"{name} reads all media of a sample, which are not mixed; remove it")
            if not losses:
                yield Problem(path, f"names no loss; expected at least one of {', '.join(kinds(SLOT))}")
            if why := explain_unanswered(name, decoder, cards):
                yield Problem(path, why)


def build(config: Config, setup: Setup) -> Heads:
    return Heads(config, setup)


class Heads(Base):
    """Sends each question to the decoder whose `answers` names its template."""

    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.decoders = {name: setup.model.decoders[name] for name in config.losses}
        self.judged = {name: each.as_one() if takes_prompts(each) else each for name, each in self.decoders.items()}
        self.model = setup.composition.build(setup, config)
        self.tokenize: Tokenize | None = None
        if config.text is not None:
            self.tokenize = partial(tokenize_prompt, setup.composition.make_text_tokenizer(setup, config), config.text)
        for name in self.decoders:
            self._check_sides(name)
        self.views = max(each.most_media for each in self.decoders.values())
        self._observing = [name for name in self.decoders if hasattr(self.model.decoders[name], "observe")]
        self._seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin(self) -> None:
        if self._observing and self.engine.config.kind in SHARDING:
            raise RecipeError(
                f"engine.kind is {self.engine.config.kind}, and units of decoder {self._observing[0]} begin anew while"
                " it trains, which the copies of weights in an optimizer do not notice; use ddp or single"
            )

    def _check_sides(self, decoder: str) -> None:
        """Raises RecipeError if the side outputs of a decoder do not have a weight each."""
        given, has = len(self.config.sides.get(decoder, ())), len(self._find_sides(decoder))
        if given != has:
            raise RecipeError(
                f"stages.{self.config.name}.sides: {decoder} has {has} side outputs, and {given} of them have a weight;"
                f" give {has} weights, e.g. sides: {{{decoder}: {[0.5**n for n in range(1, has + 1)]}}}"
                if has
                else f"stages.{self.config.name}.sides: {decoder} has no side outputs; remove it"
            )

    def _find_sides(self, decoder: str) -> tuple[tuple[int, ...], ...]:
        """The sizes of the side outputs of a decoder."""
        return getattr(self.model.decoders[decoder], "sides", ())  # type: ignore[no-any-return]

    def keep_asked(self, sample: Sample) -> Sample:
        asked = {decoder.answers or name for name, decoder in self.decoders.items()}
        return replace(sample, questions=tuple(q for q in sample.questions if q.template in asked))

    def choose_views(self, sample: Sample, position: int) -> Sample:
        """Of a decoder that reads several media, those that it reads."""
        if self.views == 1:
            return sample
        rng = draw(self.setup.seed, self.config.name, "media", sample.key, position)
        return replace(sample, media=choose_media(sample, self.setup.prepare.routes, self.views, rng))

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> LabelledSample:
        seen = self.setup.prepare.see(self.choose_views(sample, position), files)
        (encoder, pixels), *others = seen.media
        further = tuple(each for _, each in others) if self.views > 1 else ()
        labels: dict[str, list[torch.Tensor]] = {}
        prompts: dict[str, list[Prompt]] = {}
        for name, question in self._find_questions(sample, encoder):
            if takes_prompts(self.decoders[name]):
                rng = draw(self.setup.seed, self.config.name, "prompts", name, sample.key, position)
                list_objects = partial(self.setup.prepare.list_objects, sample, question, files, self.decoders[name])
                said = question.text, sample.media[0].kind, self.tokenize, rng
                for label, prompt in draw_objects(self.decoders[name], list_objects, rng):
                    labels.setdefault(name, []).append(label)
                    prompts.setdefault(name, []).append(say(prompt, self.decoders[name], *said, label[0].numpy() == 1))
                continue
            found = self.setup.prepare.labels(sample, question, files, self.decoders[name], seen.canvas)
            labels.setdefault(name, []).append(torch.from_numpy(found))
        return LabelledSample(sample.key, encoder, pixels, labels, prompts=prompts, further=further)

    def _prepare_item(self, item: Item) -> LabelledSample:
        own: LabelledSample = super()._prepare_item(item)
        if self.views > 1:
            own = replace(own, left_out=len(item.sample.media) - 1 - len(own.further))
        if self.config.blend is None:
            return own
        position, batch = item.place.position, self.config.batch
        mixture = draw_mixture(self.config.blend, batch, self.setup.seed, self.config.name, position // batch)
        masks = [name for name, each in self.decoders.items() if find_form(each) == "maps"]

        def prepare(other: int) -> LabelledSample:
            return super(Heads, self)._prepare_item(self.stream.item(other))  # type: ignore[no-any-return]

        found: LabelledSample = blend_sample(own, position, batch, mixture, prepare, masks)
        return found

    def _find_questions(self, sample: Sample, encoder: str) -> Iterator[tuple[str, Question]]:
        """The decoders of this encoder, each with the questions that it answers."""
        for name, decoder in self.decoders.items():
            if self.model.reads[name] == encoder:
                yield from ((name, q) for q in sample.questions if q.template == (decoder.answers or name))

    def make_micros(self, prepared: list[LabelledSample], count: int) -> list[Labelled]:
        return [collate_labelled(part, self.decoders) for part in split_evenly(prepared, count)]

    def make_heaviest(self, items: list[LabelledSample]) -> Labelled:
        most = max(items, key=lambda item: len(item.further))
        return super().make_heaviest([most] * len(items) if most.further else items)  # type: ignore[no-any-return]

    def count(self, prepared: list[LabelledSample]) -> Terms:
        """Also, for each source, the number of media that decoders of several did not read, for their limit."""
        left_out = Counter[str]()
        for item in prepared:
            left_out[item.source] += item.left_out
        found: Terms = {OfSource(name, "media_left_out"): Term(float(n)) for name, n in left_out.items() if n}
        return {**super().count(prepared), **found}

    def weigh(self, micro: Labelled) -> dict[str, float]:
        weights = {}
        for decoder, loss, side in self._list_losses():
            weight = 0.0
            if decoder in micro.labels:
                module, labels = component(SLOT, loss.kind), self._scale_labels(decoder, side, micro.labels[decoder])
                weight = sum(
                    factor * module.weigh(loss, labels[part], self.judged[decoder])
                    for factor, part in micro.list_shares(decoder)
                )
            weights[_name_loss(decoder, loss, side)] = weight
        found = weigh_own_terms(self.decoders, micro), weigh_terms(self.model.decoders, self.decoders, micro)
        return weights | found[0] | found[1]

    def compute_loss(self, model: nn.Module, micro: Labelled, step: int) -> Measured:
        weights = self.weigh(micro)
        micro = micro.to(self.engine.device)
        outputs = model(micro)
        measured: dict[Name, Loss | Term] = {}
        joint = dict.fromkeys(name for name, loss, _ in self._list_losses() if _is_joint(loss))
        gathered = {name: self._gather(name, outputs, micro) for name in joint}
        for decoder, loss, side in self._list_losses():
            name, logits = _name_loss(decoder, loss, side), outputs.get(name_output(decoder, side))
            if logits is None and side:  # only training has side outputs
                continue
            if _is_joint(loss):
                every, labels, own = gathered[decoder]
                if decoder in self._observing and self.model.training:
                    self._seen[decoder] = every.detach(), labels
                total = component(SLOT, loss.kind).add_up(loss, every, labels, self.decoders[decoder], own)
                total = loss.weight * total + 0 * every.sum()  # in the graph, whatever the labels are
            elif logits is None:  # evaluation without a question: 0, as ranks add up the same losses
                total = torch.zeros((), device=self.engine.device)
            elif decoder in micro.labels:
                module, labels = component(SLOT, loss.kind), self._scale_labels(decoder, side, micro.labels[decoder])
                total = loss.weight * sum(
                    factor * module.add_up(loss, logits[part], labels[part], self.judged[decoder])
                    for factor, part in micro.list_shares(decoder)
                )
            else:
                total = logits.float().sum()  # the logits are empty: 0, with a gradient of zeros for DDP
            measured[name] = Loss(self.config.sides[decoder][side - 1] * total if side else total, weights[name])
        of_decoders = add_up_terms(self.model.decoders, self.decoders, outputs, weights)
        return measured | add_up_own_terms(self.decoders, outputs, micro, weights, self.engine) | of_decoders

    def _scale_labels(self, decoder: str, side: int, labels: torch.Tensor) -> torch.Tensor:
        """The labels of a side output, at its size."""
        for axis, length in enumerate(size := self._find_sides(decoder)[side - 1] if side else (), -len(size)):
            before = labels.shape[axis]
            # The pixel at the centre, as torch's nearest-exact has it, which does not take integers.
            at = ((2 * torch.arange(length, device=labels.device) + 1) * before).div(2 * length, rounding_mode="floor")
            labels = labels.index_select(axis, at)
        return labels

    def _gather(self, name: str, outputs: Outputs, micro: Labelled) -> tuple[torch.Tensor, torch.Tensor, slice]:
        return gather_rows(self.engine, self.decoders[name], outputs.get(name_output(name)), micro.labels.get(name))

    def after_step(self, step: int) -> None:
        for name, (vectors, labels) in self._seen.items():
            done = (step + 1) / self.config.steps
            self.model.decoders[name].observe(vectors, labels, done, self.engine.sum_over_ranks)
        self._seen.clear()

    def validate(self, model: nn.Module, samples: int) -> Terms:
        items = self.prepare_validation(samples)
        size = max(1, self.config.batch // self.engine.world)
        found: dict[Name, Term] = {}
        with evaluating(self.model):
            for at in range(0, len(items), size):
                (micro,) = self.make_micros(items[at : at + size], 1)
                join(found, to_terms(self.compute_loss(model, micro, self.config.steps)))
        return {LOSS: add_up_means(found, self.engine), **found}

    def _list_losses(self) -> Iterator[tuple[str, Any, int]]:
        """The losses of the outputs of each decoder: 0 is the mask itself, 1 the first side output."""
        for decoder, losses in self.config.losses.items():
            for side in range(1 + len(self.config.sides.get(decoder, ()))):
                yield from ((decoder, loss, side) for loss in losses)


def _is_joint(loss: Any) -> bool:
    """Whether it compares the samples of a batch with each other."""
    return getattr(component(SLOT, loss.kind), "JOINT", False)


def _name_loss(decoder: str, loss: Any, side: int) -> str:
    """The name of a loss in the log, e.g. `lesion.dice`, and `lesion.dice.1` for the first side output."""
    name = f"{decoder}.{loss.kind.rpartition('.')[2]}"
    return f"{name}.{side}" if side else name
