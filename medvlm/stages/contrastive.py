"""Trains image and text towers to embed images and reports in one space."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate as accumulate_counts
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.config import Slot, component
from medvlm.core.contracts import Outputs
from medvlm.core.errors import DataError
from medvlm.core.needs import Needs, Toy
from medvlm.core.problems import Problem
from medvlm.core.sample import Sample
from medvlm.core.stage_config import StageConfig
from medvlm.data.order import draw
from medvlm.data.texts import tokenize_text
from medvlm.models.parts import evaluating
from medvlm.models.towers import Pairs
from medvlm.objectives.joint._base import Ranks
from medvlm.objectives.pairs._ring import Ring, add_up_ring
from medvlm.stages._base import Base, Setup, Wants, split_evenly
from medvlm.stages._captions import Captions, draw_texts, explain_no_labels
from medvlm.stages._gradient_cache import fill_caches
from medvlm.stages._joint_terms import Read, add_up, check_terms, read_sample, split, stack, weigh
from medvlm.train.accumulate import Update
from medvlm.train.terms import LOSS, Loss, Measured, Name, Term, Terms, join, to_terms

NEEDS = "embed"
PAIRS = "pairs"
"""The name of the loss of pairs in a stage with several losses."""


class Config(StageConfig, Captions):
    kind: Literal["contrastive"]
    text: Annotated[Any, Slot("texts")]
    """The text tower."""
    loss: Annotated[Any, Slot("objectives.pairs")]
    width: int | None = Field(128, gt=0)
    """Width of the shared space. null: no linear heads; the pooled outputs of the towers are compared, as in SigLIP."""
    views: int = Field(1, gt=0, exclude_if=lambda count: count == 1)
    """How many media of a sample stand for it, such as the films of a study: the mean of their embeddings is compared
    with the text. Of more, some are drawn each time; with fewer, those that there are."""
    alike: Literal["concept", "text"] = "concept"
    """Which pairs of a batch count as matches. `concept`: pairs with the same concept, or with the same text if a
    sample has no concept. `text`: only pairs with the same text, so that the towers also learn what reports say beyond
    the concept."""
    terms: dict[str, Annotated[Any, Slot("objectives.joint")]] = {}
    """Name -> a further loss of the same pass over the batch, e.g. {local: {kind: word_regions, weight: 0.5}}."""
    weight: float = Field(1.0, ge=0)
    """Factor on the loss of pairs, for a stage with `terms`."""
    exchange: Literal["gather", "ring"] = "gather"
    """How ranks compare their pairs. `gather`: each rank gets the embeddings of all pairs, and computes the rows of its
    own. `ring`: the pairs travel around the ranks, so that memory does not grow with their number; twice as many
    products are computed."""

    @model_validator(mode="after")
    def _refuse_auto(self) -> Config:
        if self.accumulate == "auto":
            raise ValueError(
                "accumulate: all pairs of a contrastive batch are compared with each other, in a first pass over all"
                " micro-batches; give their number instead of auto"
            )
        return self

    def check(self, model: Any, cards: Mapping[str, Any]) -> Iterator[Problem]:
        if self.exchange == "ring" and not hasattr(component("objectives.pairs", self.loss.kind), "slope"):
            yield Problem(("exchange",), f"{self.loss.kind} cannot be computed block by block; use gather")
        if self.views > 1 and self.terms:
            yield Problem(("views",), "terms read the patches of one medium; leave it at 1, or remove `terms`")
        yield from check_terms(self.terms, model)

    def scale_down(self, toy: Toy) -> Self:
        terms = {name: term.scale_down() for name, term in self.terms.items()}
        return super().scale_down(toy).model_copy(update={"terms": terms})

    def find_needs(self, model: Any) -> Needs:
        return Needs(report=self.labels is None, media=True)


@dataclass(frozen=True)
class Pair:
    """Media and their texts. concepts: of each text; equal numbers mark pairs that match. further: the other views of a
    study, each with its encoder."""

    key: str
    encoder: str
    pixels: torch.Tensor
    texts: list[list[int]]
    concepts: list[int]
    source: str = ""
    read: Read = field(default_factory=dict)
    further: tuple[tuple[str, torch.Tensor], ...] = ()


def build(config: Config, setup: Setup) -> Contrastive:
    return Contrastive(config, setup)


class Contrastive(Base):
    """Pairs a sample's first medium, or several of its media, with texts about it."""

    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.objective = component("objectives.pairs", config.loss.kind)
        self.tokenizer = setup.composition.make_text_tokenizer(setup, config)
        self.model = setup.composition.build(setup, config)
        self.terms: Any = self.model.terms if config.terms else None
        self.views = config.views

    def begin(self) -> None:
        if self.config.labels is not None:
            views = {name: self.setup.open_source(name, "train", self.wants) for name in self.config.mix}
            if (why := explain_no_labels(self.config.labels, views)) and self.engine.is_first:
                print(f"stage {self.config.name}: {why}", file=sys.stderr, flush=True)

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Pair:
        seen = self.setup.prepare.see(self.choose_views(sample, position), files)
        (encoder, pixels), *further = seen.media[: self.views]
        config, where = self.config, f"{sample.source}/{sample.key}"
        drawn = draw_texts(config, sample, config.batch, self.setup.seed, config.name, position)
        texts = [tokenize_text(self.tokenizer, each.text, config.text, where) for each in drawn]
        concept = sample.concept if config.alike == "concept" else ""
        concepts = [hash_label(each.label or concept or " ".join(each.text.lower().split())) for each in drawn]
        read = {}
        if self.terms:
            first = drawn[0].text, texts[0]
            key = self.setup.seed, config.name, "terms", position
            read = read_sample(self.terms, sample, files, *first, self.tokenizer, self.setup.prepare, seen.canvas, *key)
        return Pair(sample.key, encoder, pixels, texts, concepts, read=read, further=tuple(further))

    def choose_views(self, sample: Sample, position: int) -> Sample:
        """Of several views, those of kinds that no encoder takes are left out. Raises DataError if none is left."""
        if self.views == 1:
            return sample
        fitting = [medium for medium in sample.media if self.setup.prepare.takes(medium.kind)]
        if not fitting:
            raise DataError("no encoder of the model takes any of its media; leave it out, or give `serves`")
        rng = draw(self.setup.seed, self.config.name, "views", position)
        chosen = sorted(rng.permutation(len(fitting))[: self.views])
        return replace(sample, media=tuple(fitting[n] for n in chosen))

    @property
    def wants(self) -> Wants:
        takes = super().wants
        if self.config.labels is None:
            return takes
        return lambda entry: takes(entry) and (entry.has_report or bool(entry.tasks))

    def count_tokens(self, item: Pair) -> int:
        return sum(map(len, item.texts))

    def make_micros(self, prepared: list[Pair], count: int) -> list[Pairs]:
        # Texts of one length in all parts, because the outputs of their tokens are joined.
        length = max(len(text) for pair in prepared for text in pair.texts) if count > 1 and self.config.terms else 0
        parts = [collate_pairs(part, self.tokenizer.pad_token_id, length) for part in split_evenly(prepared, count)]
        if self.config.terms:
            for micro, read in zip(parts, split(stack([pair.read for pair in prepared]), count), strict=True):
                micro.read = read
        return parts

    def plan_updates(self, micros: list[Pairs], step: int) -> list[Update]:
        if len(micros) > 1:
            with self.engine.autocast():
                weights = [self.weigh(micro) for micro in micros]
                joint = {name: sum(each[name] for each in weights) for name in weights[0]}
                measure = partial(self._compare, weights=joint)
                caches = fill_caches(micros, partial(self._embed, self.model), measure, self.engine.device)
            for micro, cache in zip(micros, caches, strict=True):
                micro.cache = cache
        return [Update()]

    def weigh(self, micro: Pairs) -> dict[str, float]:
        count = len(micro.keys)
        return {PAIRS: count, **weigh(self.terms, micro.read, count)} if self.terms else {LOSS: count}

    def compute_loss(self, model: nn.Module, micro: Pairs, step: int) -> Measured:
        if micro.cache is not None:
            found: Measured = micro.cache.replay(partial(self._embed, model, micro), self.engine.device)
            return found
        return self._compare(self._embed(model, micro), self.weigh(micro))

    def _embed(self, model: nn.Module, micro: Pairs) -> Outputs:
        micro = micro.to(self.engine.device)
        return {**model(micro), "concepts_NK": micro.concepts_NK}

    def _compare(self, outputs: Outputs, weights: Mapping[str, float]) -> Measured:
        """The losses of this rank's pairs, and how often the most similar text of an image is one of its own. weights:
        of the losses."""
        log_scale, count = outputs["log_scale"], len(outputs["media_NP"])
        compare = self._pass_around if self.config.exchange == "ring" else self._gather
        texts_NKP = outputs["texts_NP"].unflatten(0, (count, -1))
        found = [
            compare({**outputs, "texts_NP": texts_NKP[:, k], "concepts_N": outputs["concepts_NK"][:, k]})
            for k in range(texts_NKP.shape[1])
        ]
        losses, hits = zip(*found, strict=True)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)
        own: dict[Name, Loss | Term] = {LOSS: Loss(loss, count)}
        if self.terms:
            ranks = Ranks(self.engine.rank, self.engine.gather, self.engine.find_most)
            own = {
                PAIRS: Loss(self.config.weight * loss, count),
                **add_up(self.terms, self.config.terms, ranks, outputs, weights),
            }
        return {
            **own,
            "image_to_text_top1": Term(sum(hits) / len(hits), count),
            "scale": Term(float(log_scale.detach().exp()), 1.0),
        }

    def _gather(self, outputs: Outputs) -> tuple[torch.Tensor, float]:
        own_concepts, count = outputs["concepts_N"], len(outputs["media_NP"])
        media_NP, texts_NP, concepts = self.engine.gather(outputs["media_NP"], outputs["texts_NP"], own_concepts)
        log_scale, bias = outputs["log_scale"], outputs.get("bias")
        first = self.engine.rank * count
        own = slice(first, first + count)
        same = concepts[:, None] == concepts[None, :]
        loss = self.objective.pair_loss(self.config.loss, media_NP, texts_NP, own, log_scale, bias, same)
        best = (media_NP[own] @ texts_NP.T).argmax(1)
        return loss, float(same[own].gather(1, best[:, None]).sum())

    def _pass_around(self, outputs: Outputs) -> tuple[torch.Tensor, float]:
        media_NP, texts_NP, concepts_N = outputs["media_NP"], outputs["texts_NP"], outputs["concepts_N"]
        scale, ring = (outputs["log_scale"], outputs.get("bias")), Ring(self.engine.rotate, self.engine.world)
        return add_up_ring(self.objective, self.config.loss, media_NP, texts_NP, concepts_N, *scale, ring)

    def after_step(self, step: int) -> None:
        limit = getattr(self.objective, "MAX_LOG_SCALE", None)  # most losses have none
        if limit is not None:
            with torch.no_grad():
                self.model.heads["scale"].log_scale.clamp_(max=limit)

    def validate(self, model: nn.Module, samples: int) -> Terms:
        pairs = self.prepare_validation(samples)
        size = min(self.config.batch // self.engine.world, len(pairs))
        found: dict[Name, Term] = {}
        with evaluating(self.model):
            for at in range(0, len(pairs) - size + 1, max(size, 1)):
                (micro,) = self.make_micros(pairs[at : at + size], 1)
                join(found, to_terms(self.compute_loss(model, micro, self.config.steps)))
        if not self.terms:
            return {name: found[name] for name in (LOSS, "image_to_text_top1")}
        # Each loss is a mean over its own weight, summed over all ranks. Only these means can be added.
        names = [PAIRS, *(name for name in self.weigh(micro) if name != PAIRS)]
        totals = self.engine.sum_over_ranks([number for name in names for number in found[name]])
        means = [total / weight if weight else 0.0 for total, weight in zip(totals[::2], totals[1::2], strict=True)]
        return {LOSS: Term(sum(means), 1.0), **{name: found[name] for name in (*names, "image_to_text_top1")}}


def hash_label(label: str) -> int:
    """7 bytes of a hash, so that the number fits into int64."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=7).digest(), "big")


def collate_pairs(pairs: list[Pair], pad_id: int, length: int = 0) -> Pairs:
    """Stacks pairs. Texts are padded to the longest one of the batch, which costs less than padding to the limit, and
    at least to `length`."""
    texts = [text for pair in pairs for text in pair.texts]
    ids = torch.full((len(texts), max(length, *map(len, texts))), pad_id)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    media = dict[str, list[torch.Tensor]]()
    at: list[list[tuple[str, int]]] = []
    for pair in pairs:
        at.append([])
        for name, pixels in ((pair.encoder, pair.pixels), *pair.further):
            at[-1].append((name, len(media.setdefault(name, []))))
            media[name].append(pixels)
    firsts = dict(zip(media, accumulate_counts(map(len, media.values()), initial=0), strict=False))
    order = torch.full((len(pairs), max(map(len, at))), -1)
    for row, views in enumerate(at):
        order[row, : len(views)] = torch.tensor([firsts[name] + number for name, number in views])
    return Pairs(
        media={name: torch.stack(pixels) for name, pixels in media.items()},
        order_NV=order,
        ids_BT=ids,
        mask_BT=mask,
        concepts_NK=torch.tensor([p.concepts for p in pairs]),
        keys=tuple(p.key for p in pairs),
    )
