"""Words and patches are fused, and what is hidden of one is told by the other (ARL, arXiv 2209.07118; METER, arXiv
2111.02387): masked words, masked patches, whether an image and a text belong together, and which entities of a
dictionary an image and its text are about.

Axes: N pairs, R patches of an image, S patches that are seen, T tokens of its text, M masked ones, K entities that it
names, Q entities of the dictionary, P width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medvlm.core.contracts import Masking, Outputs
from medvlm.core.errors import ShapeError
from medvlm.core.joint import Item, Seen, Towers
from medvlm.core.terminology import Terminology
from medvlm.objectives.joint._base import JointLoss, Objective, Ranks, Tensors, widen
from medvlm.objectives.joint._fusion import Fusion, Text
from medvlm.objectives.joint._mentions import Mentions
from medvlm.objectives.ssl._base import make_positions, split_patches

MASKED, RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become the mask token, and any other token (BERT, arXiv 1810.04805)."""


class Config(JointLoss):
    kind: Literal["fusion"]
    dictionary: Terminology
    """Entities, with other words for each; they are found in texts as whole words."""
    most: int = Field(24, gt=0)
    """Entities of a text that count, the first ones."""
    width: int = Field(768, gt=0)
    layers: int = Field(6, gt=0)
    heads: int = Field(12, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    words: float = Field(1.0, ge=0)
    """Weight of the masked words."""
    masked_words: float = Field(0.15, gt=0, lt=1)
    """Share of the words that are masked; an entity is masked whole."""
    patches: float = Field(1.0, ge=0)
    """Weight of the masked patches."""
    masked_patches: float = Field(0.75, gt=0, lt=1)
    painted_from: int = Field(3, gt=0)
    """The layer that the decoder of patches reads."""
    decoder_width: int = Field(384, gt=0)
    decoder_layers: int = Field(4, gt=0)
    match: float = Field(0.1, ge=0)
    """Weight of the question whether an image and a text belong together. Samples of a batch are taken two by two, and
    half of the images get the text of the other one; the last one of an odd micro-batch keeps its own."""
    entities: float = Field(1.0, ge=0)
    """Weight of the entities that image and text, each by itself, have to tell."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        for name, width in (("width", self.width), ("decoder_width", self.decoder_width)):
            if width % self.heads:
                raise ValueError(f"{name} {width} cannot be divided among {self.heads} heads")
        if self.painted_from > self.layers:
            raise ValueError(f"painted_from is {self.painted_from}, and there are {self.layers} layers")
        return self

    @property
    def hides_words(self) -> bool:
        return bool(self.words)

    @property
    def weights(self) -> dict[str, float]:
        """Of the losses that count."""
        every = {"words": self.words, "patches": self.patches, "match": self.match, "entities": self.entities}
        return {name: weight for name, weight in every.items() if weight}

    def scale_down(self) -> Self:
        small = {"width": 4 * self.heads, "decoder_width": 4 * self.heads, "decoder_layers": 1}
        return self.model_copy(update={**small, "layers": 2, "painted_from": min(self.painted_from, 2)})


def build(config: Config, towers: Towers) -> FusionLosses:
    """Raises ShapeError for an image tower that cannot leave out patches, if they are to be painted, and for a text
    tower without a mask token, if words are to be told."""
    return FusionLosses(config, towers)


class FusionLosses(Objective):
    """Deviations from ARL: entities are found by their words in a dictionary, and their vectors are learned from
    scratch, where ARL's are those of a graph of UMLS; their stream is as wide as that of the words. The mean of the
    patches stands for the class token of the image, and the pooled output of the text tower for that of the text. Of
    two samples with the same text, each keeps its own."""

    positions_RD: torch.Tensor

    def __init__(self, config: Config, towers: Towers):
        super().__init__()
        self.config, self.mentions = config, Mentions(config.dictionary)
        self.vocabulary, self.total = towers.vocabulary, math.prod(towers.grid)
        self.entities, width = len(config.dictionary.entries), config.width
        self.word, self.patch = nn.Linear(towers.word_width, width), nn.Linear(towers.patch_width, width)
        self.fusion = Fusion(width, config.layers, config.heads, config.dropout, self.entities)
        wanted = config.weights
        if "words" in wanted:
            if towers.mask_id is None:
                raise ShapeError(
                    "terms.words: the tokenizer of this text tower has no mask token that could stand for a hidden"
                    " word; use a tower that was trained with one, such as BERT, or `words: 0`"
                )
            self.mask_id = towers.mask_id
            self.tell_word = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, towers.vocabulary)
            )
        if "patches" in wanted:
            self._build_painter(config, towers)
        if "match" in wanted:
            self.belongs = nn.Linear(2 * width, 1)
        if "entities" in wanted:
            self.tell_image = nn.Linear(towers.patch_width, self.entities)
            self.tell_text = nn.Linear(towers.text_width, self.entities)

    def _build_painter(self, config: Config, towers: Towers) -> None:
        if not towers.can_mask:
            raise ShapeError("terms.patches: this encoder cannot leave out patches; use a plain ViT, or `patches: 0`")
        self.sides = tuple(n // g for n, g in zip(towers.input_shape[1:], towers.grid, strict=True))
        self.kept = max(1, self.total - round(self.total * config.masked_patches))
        wide: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.narrow = nn.Linear(config.width, config.decoder_width)
        self.hidden_patch = nn.Parameter(torch.empty(config.decoder_width).normal_(std=0.02))
        self.register_buffer("positions_RD", make_positions(towers.grid, config.decoder_width), persistent=False)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(config.decoder_width, config.heads, 4 * config.decoder_width, **wide)
            for _ in range(config.decoder_layers)
        )
        self.paint = nn.Linear(config.decoder_width, towers.input_shape[0] * math.prod(self.sides))

    def read(self, item: Item) -> dict[str, torch.Tensor]:
        """spans [K, 2] and entries [K], -1 where there are no more, and wanted [Q] of the entities; shown [T], the ids
        with masked words, and asked [M], the places of the masked ones; kept [S] patches; is_swapped []."""
        found, rng = self.mentions.find(item), item.rng
        spans, entries = torch.full((self.config.most, 2), -1), torch.full((self.config.most,), self.entities)
        for number, mention in enumerate(found[: self.config.most]):
            spans[number], entries[number] = torch.tensor(mention[:2]), mention.entry
        wanted = torch.zeros(self.entities)
        wanted[[mention.entry for mention in found]] = 1
        words = [range(mention.start, mention.end) for mention in found]
        read = {"spans": spans, "entries": entries, "wanted": wanted, "is_swapped": torch.tensor(rng.random() < 0.5)}
        if self.config.words:
            read |= self._mask(item.ids, words, rng)
        if self.config.patches:
            read["kept"] = torch.from_numpy(rng.permutation(self.total)[: self.kept]).sort().values
        return read

    def _mask(self, ids: list[int], words: list[range], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Start and end are never masked."""
        taken = {token for word in words for token in word}
        units = [*words, *(range(token, token + 1) for token in range(1, len(ids) - 1) if token not in taken)]
        shown, asked = torch.tensor(ids), list[int]()
        most = max(1, round(self.config.masked_words * (len(ids) - 2)))
        for number in rng.permutation(len(units)):
            if len(asked) >= most:
                break
            for token in units[number]:
                asked.append(token)
                chance = rng.random()
                if chance < MASKED:
                    shown[token] = self.mask_id
                elif chance < MASKED + RANDOM:
                    shown[token] = int(rng.integers(self.vocabulary))
        return {"shown": shown, "asked": torch.tensor(asked, dtype=torch.int64)}

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        """The losses of each pair [N], by name."""
        text = Text(self.word(seen.words_NTE), seen.mask_NT, read["spans"], read["entries"])
        patches_NRP, found = self.patch(seen.patches_NRE), dict[str, torch.Tensor]()
        for name in self.config.weights:
            if name == "words":
                found[name] = self._tell_words(seen, read, text, patches_NRP)
            elif name == "patches":
                found[name] = self._paint(seen, read, text)
            elif name == "match":
                found[name] = self._match(seen, read, text, patches_NRP)
            else:
                found[name] = self._tell_entities(seen, read)
        return found

    def _tell_words(self, seen: Seen, read: Tensors, text: Text, patches_NRP: torch.Tensor) -> torch.Tensor:
        length = seen.ids_NT.shape[1] - read["shown"].shape[1]
        shown_NT, asked_NM = nn.functional.pad(read["shown"], (0, length), value=-1), read["asked"]
        words_NTP = self.word(seen.read(torch.where(shown_NT < 0, seen.ids_NT, shown_NT), seen.mask_NT))
        last_NTP = self.fusion(Text(words_NTP, *text[1:]), patches_NRP).words[-1]
        # Logits of the masked words alone: those of all tokens would be seven times as many.
        at_NM = asked_NM.clamp(min=0)
        wanted_NM = torch.where(asked_NM < 0, -1, seen.ids_NT.gather(1, at_NM))
        asked_NMP = last_NTP.gather(1, at_NM[..., None].expand(-1, -1, last_NTP.shape[2]))
        logits_NMV = widen(self.tell_word(asked_NMP))
        return cross_entropy(logits_NMV.transpose(1, 2), wanted_NM, reduction="none", ignore_index=-1).sum(1)

    def _paint(self, seen: Seen, read: Tensors, text: Text) -> torch.Tensor:
        """The error of the masked patches, the mean over their pixels; patches are standardised as in MAE."""
        kept_NS = read["kept"]
        patches_NSP = self.patch(seen.look(Masking(kept_NK=kept_NS)).patches)
        told_NSD = self.narrow(self.fusion(text, patches_NSP).patches[self.config.painted_from - 1])
        every_NRD = self.hidden_patch.to(told_NSD.dtype).expand(len(told_NSD), self.total, -1)
        every_NRD = every_NRD.scatter(1, kept_NS[..., None].expand_as(told_NSD), told_NSD)
        every_NRD = every_NRD + self.positions_RD.to(told_NSD.dtype)
        for block in self.blocks:
            every_NRD = block(every_NRD)
        target_NRX = split_patches(widen(seen.pixels), self.sides)
        variance, mean = torch.var_mean(target_NRX, -1, keepdim=True)
        error_NR = (widen(self.paint(every_NRD)) - (target_NRX - mean) / (variance + 1e-6).sqrt()).square().mean(-1)
        return (error_NR * torch.ones_like(error_NR).scatter(1, kept_NS, 0.0)).sum(1)

    def _match(self, seen: Seen, read: Tensors, text: Text, patches_NRP: torch.Tensor) -> torch.Tensor:
        count = len(patches_NRP)
        own_N = torch.arange(count, device=patches_NRP.device)
        # Two by two, so that micro-batches of an even size on any number of ranks swap the same texts.
        other_N = torch.where(own_N == count - count % 2, own_N, own_N ^ 1)
        is_swapped_N = read["is_swapped"] & (seen.ids_NT != seen.ids_NT[other_N]).any(1)
        found = self.fusion(text.take(torch.where(is_swapped_N, other_N, own_N)), patches_NRP)
        both_NP = torch.cat([found.words[-1][:, 0], found.patches[-1].mean(1)], 1)
        logits_N = widen(self.belongs(both_NP))[:, 0]
        return binary_cross_entropy_with_logits(logits_N, (~is_swapped_N).to(logits_N), reduction="none")

    def _tell_entities(self, seen: Seen, read: Tensors) -> torch.Tensor:
        told = widen(self.tell_image(seen.pooled_NE)), widen(self.tell_text(seen.texts_NE))
        wanted_NQ = read["wanted"].to(told[0])
        every = [binary_cross_entropy_with_logits(logits, wanted_NQ, reduction="none").mean(1) for logits in told]
        return torch.stack(every).sum(0)

    def weigh(self, read: Tensors, count: int) -> dict[str, float]:
        weights = {"match": float(count), "entities": float(count)}
        if self.config.words:
            weights["words"] = float((read["asked"] >= 0).sum())
        if self.config.patches:
            weights["patches"] = float(count * (self.total - self.kept))
        return {name: weights[name] for name in self.config.weights}

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: weight * outputs[name].sum() for name, weight in self.config.weights.items()}
