"""Trains image and text towers to embed images and reports in one space."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from medvlm.core.config import Slot, component
from medvlm.core.needs import Needs
from medvlm.core.sample import Sample
from medvlm.core.stage_config import StageConfig
from medvlm.data.order import draw_below
from medvlm.data.texts import tokenize_text
from medvlm.models.parts import evaluating
from medvlm.models.towers import Pairs
from medvlm.stages._base import Base, Setup, split_evenly
from medvlm.train.terms import LOSS, Loss, Measured, Name, Term, Terms, join, to_terms

NEEDS = "embed"


class Config(StageConfig):
    kind: Literal["contrastive"]
    text: Annotated[Any, Slot("texts")]
    """The text tower."""
    loss: Annotated[Any, Slot("objectives.pairs")]
    width: int | None = Field(128, gt=0)
    """Width of the shared space. null: no linear heads; the pooled outputs of the towers are compared, as in SigLIP."""
    alike: Literal["concept", "text"] = "concept"
    """Which pairs of a batch count as matches. `concept`: pairs with the same concept, or with the same text if a
    sample has no concept. `text`: only pairs with the same text, so that the towers also learn what reports say beyond
    the concept."""

    reads: Literal["report", "sentence"] = "report"
    """`sentence`: a random sentence of the report, drawn anew each time (ConVIRT, arXiv 2010.00747, section 2.2)."""

    @model_validator(mode="after")
    def _refuse_accumulation(self) -> Config:
        if self.accumulate != 1:
            raise ValueError(
                "accumulate: the pairs of a contrastive batch are compared with each other and cannot be split; leave"
                " it at 1"
            )
        return self

    def find_needs(self, model: Any) -> Needs:
        return Needs(report=True, media=True)


@dataclass(frozen=True)
class Pair:
    key: str
    encoder: str
    pixels: torch.Tensor
    ids: list[int]
    concept: int
    source: str = ""


def build(config: Config, setup: Setup) -> Contrastive:
    return Contrastive(config, setup)


class Contrastive(Base):
    """Pairs a sample's first medium with its report."""

    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.objective = component("objectives.pairs", config.loss.kind)
        self.tokenizer = setup.composition.make_text_tokenizer(setup, config)
        self.model = setup.composition.build(setup, config)

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Pair:
        encoder, pixels = self.setup.prepare.see(sample, files).media[0]
        text = sample.report
        if self.config.reads == "sentence":
            found = split_sentences(text)
            text = found[draw_below(len(found), self.setup.seed, self.config.name, "sentence", position, sample.key)]
        ids = tokenize_text(self.tokenizer, text, self.config.text, f"{sample.source}/{sample.key}")
        concept = sample.concept if self.config.alike == "concept" else ""
        label = concept or " ".join(text.lower().split())
        # 7 bytes, so that the number fits into int64.
        concept_hash = int.from_bytes(hashlib.blake2b(label.encode(), digest_size=7).digest(), "big")
        return Pair(sample.key, encoder, pixels, ids, concept_hash)

    def count_tokens(self, item: Pair) -> int:
        return len(item.ids)

    def make_micros(self, prepared: list[Pair], count: int) -> list[Pairs]:
        return [collate_pairs(part, self.tokenizer.pad_token_id) for part in split_evenly(prepared, count)]

    def weigh(self, micro: Pairs) -> dict[str, float]:
        return {LOSS: len(micro.keys)}

    def compute_loss(self, model: nn.Module, micro: Pairs, step: int) -> Measured:
        micro = micro.to(self.engine.device)
        outputs = model(micro)
        media_NP, texts_NP, concepts = self.engine.gather(outputs["media_NP"], outputs["texts_NP"], micro.concepts_N)
        log_scale, bias = outputs["log_scale"], outputs.get("bias")
        first, count = self.engine.rank * len(micro.keys), len(micro.keys)
        own = slice(first, first + count)
        same = concepts[:, None] == concepts[None, :]
        loss = self.objective.pair_loss(self.config.loss, media_NP, texts_NP, own, log_scale, bias, same)
        best = (media_NP[own] @ texts_NP.T).argmax(1)
        hits = float(same[own].gather(1, best[:, None]).sum())
        return {
            LOSS: Loss(loss, count),
            "image_to_text_top1": Term(hits, count),
            "scale": Term(float(log_scale.detach().exp()), 1.0),
        }

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
                micro = collate_pairs(pairs[at : at + size], self.tokenizer.pad_token_id)
                join(found, to_terms(self.compute_loss(model, micro, self.config.steps)))
        return {name: found[name] for name in (LOSS, "image_to_text_top1")}


def split_sentences(report: str) -> list[str]:
    """Splits a report at . ! ? before white space, and at empty lines. Parts without a letter are dropped; if none is
    left, the whole report is returned."""
    found = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n\s*\n", report)]
    return [part for part in found if re.search(r"[^\W\d_]", part)] or [report]


def collate_pairs(pairs: list[Pair], pad_id: int) -> Pairs:
    """Stacks pairs. Texts are padded to the longest one of the batch, which costs less than padding to the limit."""
    length = max(len(p.ids) for p in pairs)
    ids = torch.full((len(pairs), length), pad_id)
    mask = torch.zeros_like(ids)
    for row, pair in enumerate(pairs):
        ids[row, : len(pair.ids)] = torch.tensor(pair.ids)
        mask[row, : len(pair.ids)] = 1
    names = list(dict.fromkeys(p.encoder for p in pairs))
    by_encoder = {name: [n for n, p in enumerate(pairs) if p.encoder == name] for name in names}
    stacked = [n for name in names for n in by_encoder[name]]
    return Pairs(
        media={name: torch.stack([pairs[n].pixels for n in rows]) for name, rows in by_encoder.items()},
        order_N=torch.tensor([stacked.index(n) for n in range(len(pairs))]),
        ids_BT=ids,
        mask_BT=mask,
        concepts_N=torch.tensor([p.concept for p in pairs]),
        keys=tuple(p.key for p in pairs),
    )
