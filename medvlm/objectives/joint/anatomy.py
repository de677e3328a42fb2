"""Learned queries of anatomical regions look for their region in an image, and are aligned with what the report says of
it (Anatomy-VLM, arXiv 2511.08402): a box of each region, its vector beside the clauses that name it, and the findings
of the whole image. There is no code; what is unknown of the paper is said where it is chosen.

Axes: N images, R patches, Q regions, K clauses of a text, T tokens of a clause, F findings, P width, M clauses of all
ranks.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from medvlm.core.contracts import Outputs
from medvlm.core.decoder_config import DecoderConfig
from medvlm.core.joint import Item, Seen, Towers
from medvlm.core.terminology import Terminology
from medvlm.objectives.joint._base import JointLoss, Objective, Ranks, Tensors, widen
from medvlm.objectives.joint._mentions import Mentions

L1, GIOU = 5.0, 2.0
"""Weights of the two losses of a box, those of DETR (arXiv 2005.12872): the paper's are unknown."""
NEGATION = re.compile(r"\b(no|not|without)\b\s*", re.IGNORECASE)


class Config(JointLoss):
    kind: Literal["anatomy"]
    regions: Terminology
    """Region, as the label of its boxes calls it -> other words by which a report names it."""
    findings: Terminology | None = None
    """Finding, as the labels call it -> its description, the first of which is encoded by the text tower."""
    of: str = ""
    """Template of the questions whose labels say which findings are present."""
    width: int = Field(256, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(8, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    most: int = Field(6, gt=0)
    """Clauses of a report that are read in a step, each of another region; others are drawn each time."""
    clause_tokens: int = Field(32, gt=2)
    """Longer clauses are cut."""
    opposed: float = Field(0.2, ge=0, le=1)
    """Share of the clauses whose opposite is one of the wrong ones."""
    places: float = Field(1.0, ge=0)
    """Weight of the boxes of the regions."""
    clauses: float = Field(1.0, ge=0)
    """Weight of regions and their clauses."""
    whole: float = Field(1.0, ge=0)
    """Weight of the findings of the whole image."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be divided among {self.heads} heads")
        if self.whole and not (self.findings and self.of):
            raise ValueError("whole needs `findings` and `of`; give both, or `whole: 0`")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Of the losses that count."""
        every = {"places": self.places, "clauses": self.clauses, "whole": self.whole}
        return {name: weight for name, weight in every.items() if weight}

    def scale_down(self) -> Self:
        return self.model_copy(
            update={"width": 4 * self.heads, "layers": 1, "clause_tokens": min(self.clause_tokens, 12)}
        )


def build(config: Config, towers: Towers) -> Anatomy:
    return Anatomy(config, towers)


class Anatomy(Objective):
    """Deviations from the paper: queries attend to the patches in a decoder of their own behind the encoder, where they
    are tokens of the encoder there; a query has its region from the start, so boxes are not matched; clauses are found
    in the report by the names of regions, where the paper takes those of Chest ImaGenome; and the opposite of a clause
    is made by a rule (a negation is added or left out). The text tower is frozen in the paper, see `trains`."""

    ids_FT: torch.Tensor

    def __init__(self, config: Config, towers: Towers):
        super().__init__()
        self.config, self.mentions, self.tokenize = config, Mentions(config.regions), towers.tokenize
        self.pad_id, self.count = towers.pad_id, len(config.regions.entries)
        self.queries = nn.Parameter(torch.empty(self.count, config.width).normal_(std=0.02))
        self.patches = nn.Linear(towers.patch_width, config.width)
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.layers, nn.LayerNorm(config.width))
        if "places" in config.weights:
            self.place = nn.Sequential(
                nn.Linear(config.width, config.width), nn.ReLU(), nn.Linear(config.width, config.width), nn.ReLU(),
                nn.Linear(config.width, 4),
            )  # fmt: skip
        # Shape [1], because sharded parameters need an axis. The starting values are those of CLIP and SigLIP.
        if "clauses" in config.weights:
            self.region = nn.Linear(config.width + towers.patch_width, config.width)
            self.clause = nn.Linear(towers.text_width, config.width)
            self.log_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))
        if "whole" in config.weights:
            self._build_labels(config, towers)

    def _build_labels(self, config: Config, towers: Towers) -> None:
        assert config.findings is not None
        # A decoder of this kind is asked for the labels of each finding.
        self.decides = DecoderConfig(
            kind="", classes=tuple(config.findings.entries), exclusive=False, answers=config.of
        )
        texts = [towers.tokenize((each or (name,))[0]) for name, each in config.findings.entries.items()]
        ids, mask = pad_texts(texts, max(map(len, texts)), towers.pad_id)
        self.register_buffer("ids_FT", ids, persistent=False)
        self.register_buffer("mask_FT", mask, persistent=False)
        self.image, self.finding = (nn.Linear(width, config.width) for width in (towers.patch_width, towers.text_width))
        self.label_scale = nn.Parameter(torch.tensor([math.log(10)]))
        self.label_bias = nn.Parameter(torch.zeros(1))

    # --- samples ----------------------------------------------------------------------------------------

    def read(self, item: Item) -> dict[str, torch.Tensor]:
        """places [Q, 4]: left, top, right, bottom as shares of the image, -1 where there is none. whose [K]: the region
        of a clause, -1 for none; said [K], a number of its text; clauses and opposites [K, T], ids. wanted [F]: 1
        present, 0 absent, below 0 unknown."""
        read, config = dict[str, torch.Tensor](), self.config
        if config.places:
            read["places"] = torch.full((self.count, 4), -1.0)
            for number, name in enumerate(config.regions.entries):
                found = item.find_boxes(name)
                if len(found) == 1:  # of several, which one is the region is not known
                    read["places"][number] = torch.tensor(found[0])
        if config.clauses:
            read |= self._read_clauses(item)
        if config.whole:
            asked = [question for question in item.sample.questions if question.template == config.of]
            unknown = torch.full((len(self.decides.classes),), -1)
            read["wanted"] = torch.from_numpy(item.label(asked[0], self.decides)) if asked else unknown
        return read

    def _read_clauses(self, item: Item) -> dict[str, torch.Tensor]:
        most, length = self.config.most, self.config.clause_tokens
        of_region: dict[int, list[str]] = {}
        for clause in split_clauses(item.text):
            for entry in dict.fromkeys(self.mentions.list_entries(clause)):
                of_region.setdefault(entry, []).append(clause)
        drawn = [(region, of_region[region]) for region in item.rng.permutation(sorted(of_region))[:most]]
        chosen = [(int(region), clauses[int(item.rng.integers(len(clauses)))]) for region, clauses in drawn]
        whose, said = torch.full((most,), -1), torch.zeros(most, dtype=torch.int64)
        texts, others = [""] * most, [""] * most
        for number, (region, clause) in enumerate(chosen):
            whose[number], said[number], texts[number] = region, hash_text(clause), clause
            if item.rng.random() < self.config.opposed:
                others[number] = oppose(clause)
        ids, opposite = ([cut(self.tokenize(text), length) for text in each] for each in (texts, others))
        return {
            "whose": whose,
            "said": said,
            "is_opposed": torch.tensor([bool(text) for text in others]),
            "clauses": pad_texts(ids, length, -1)[0],
            "opposites": pad_texts(opposite, length, -1)[0],
        }

    # --- losses -----------------------------------------------------------------------------------------

    def forward(self, seen: Seen, read: Tensors) -> Outputs:
        found, memory_NRP = dict[str, torch.Tensor](), self.patches(seen.patches_NRE)
        regions_NQP = self.decoder(self.queries.expand(len(memory_NRP), -1, -1).to(memory_NRP.dtype), memory_NRP)
        if "places" in self.config.weights:
            found["places"] = self._compare_boxes(widen(self.place(regions_NQP)).sigmoid(), read["places"])
        if "clauses" in self.config.weights:
            found |= self._embed_clauses(seen, read, regions_NQP)
        if "whole" in self.config.weights:
            image_NP = normalize(widen(self.image(seen.pooled_NE)), dim=1)
            finding_FP = normalize(widen(self.finding(seen.embed(self.ids_FT, self.mask_FT))), dim=1)
            logits_NF = self.label_scale.exp() * image_NP @ finding_FP.T + self.label_bias
            wanted_NF = read["wanted"]
            losses_NF = binary_cross_entropy_with_logits(
                logits_NF, wanted_NF.clamp(min=0).to(logits_NF), reduction="none"
            )
            found["whole"] = (losses_NF * (wanted_NF >= 0)).sum(1)
        return found

    def _compare_boxes(self, told_NQ4: torch.Tensor, boxes_NQ4: torch.Tensor) -> torch.Tensor:
        """[N]: the losses of the boxes of an image. told: centre, height and width are told, as in DETR."""
        is_known_NQ = boxes_NQ4[..., 2] >= 0
        half_NQ2 = told_NQ4[..., 2:] / 2
        corners_NQ4 = torch.cat([told_NQ4[..., :2] - half_NQ2, told_NQ4[..., :2] + half_NQ2], -1)
        right_NQ4 = torch.where(is_known_NQ[..., None], boxes_NQ4.to(told_NQ4), corners_NQ4.detach())
        wanted_NQ4 = torch.cat(
            [(right_NQ4[..., :2] + right_NQ4[..., 2:]) / 2, right_NQ4[..., 2:] - right_NQ4[..., :2]], -1
        )
        apart_NQ = (told_NQ4 - wanted_NQ4).abs().sum(-1)
        losses_NQ = L1 * apart_NQ + GIOU * (1 - compute_giou(corners_NQ4, right_NQ4))
        return torch.where(is_known_NQ, losses_NQ, 0.0).sum(1)

    def _embed_clauses(self, seen: Seen, read: Tensors, regions_NQP: torch.Tensor) -> dict[str, torch.Tensor]:
        whose_NK = read["whose"]
        mean_N1E = seen.patches_NRE.mean(1, keepdim=True)
        joined = torch.cat([regions_NQP, mean_N1E.expand(-1, self.count, -1)], 2)
        at_NK1 = whose_NK.clamp(min=0)[..., None]
        region_NKP = self.region(joined.gather(1, at_NK1.expand(-1, -1, joined.shape[2])))
        texts = []
        for ids_NKT in (read["clauses"], read["opposites"]):
            ids_BT = ids_NKT.flatten(0, 1)
            mask_BT = (ids_BT >= 0).long()
            embedded = seen.embed(torch.where(ids_BT < 0, self.pad_id, ids_BT), mask_BT)
            texts.append(normalize(widen(self.clause(embedded)), dim=1).unflatten(0, whose_NK.shape))
        return {
            "region": normalize(widen(region_NKP), dim=2),
            "clause": texts[0],
            "opposite": texts[1],
            "is_clause": whose_NK >= 0,
            "is_opposed": read["is_opposed"],
            "said": read["said"],
            "log_scale": self.log_scale.squeeze(0),
        }

    def weigh(self, read: Tensors, count: int) -> dict[str, float]:
        found = {}
        if self.config.places:
            found["places"] = float((read["places"][..., 2] >= 0).sum())
        if self.config.clauses:
            found["clauses"] = float((read["whose"] >= 0).sum())
        if self.config.whole:
            found["whole"] = float((read["wanted"] >= 0).sum())
        return found

    def add_up(self, ranks: Ranks, outputs: Outputs, concepts_N: torch.Tensor) -> dict[str, torch.Tensor]:
        """Regions are compared with the clauses of all ranks and with opposites of them, and clauses with the regions
        of all; equal clauses match."""
        found = {}
        for name, weight in self.config.weights.items():
            if name == "clauses":
                found[name] = weight * self._compare_clauses(ranks, outputs, len(concepts_N))
            else:
                found[name] = weight * outputs[name].sum()
        return found

    def _compare_clauses(self, ranks: Ranks, outputs: Outputs, count: int) -> torch.Tensor:
        names = ("region", "clause", "opposite", "is_clause", "is_opposed", "said")
        region, clause, opposite, is_clause, is_opposed, said = ranks.gather(*(outputs[name] for name in names))
        scale, own = outputs["log_scale"].exp(), torch.zeros_like(is_clause)
        own[ranks.find_own(count)] = True
        total = 0 * (scale + region.sum() + clause.sum() + opposite.sum())
        if outputs["region"].is_meta or not is_clause.any():
            return total
        region_MP, clause_MP, said_M, own_M = region[is_clause], clause[is_clause], said[is_clause], own[is_clause]
        is_same_MM = said_M[:, None] == said_M
        share_MM = is_same_MM / is_same_MM.sum(1, keepdim=True)
        logits_MM = scale * region_MP @ clause_MP.T
        wrong_MO = scale * region_MP @ opposite[is_opposed].T
        told_MM = torch.cat([logits_MM, wrong_MO], 1).log_softmax(1)[:, : len(said_M)]
        losses_M = -(share_MM * (told_MM + logits_MM.T.log_softmax(1))).sum(1) / 2
        return total + losses_M[own_M].sum()


def compute_giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Generalized intersection over union of boxes [..., 4] by corners (arXiv 1902.09630, algorithm 1), from -1 to
    1."""

    def measure(boxes: torch.Tensor) -> torch.Tensor:
        return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)

    shared = measure(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    hull = measure(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1))
    union = measure(a) + measure(b) - shared
    return shared / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def split_clauses(text: str) -> list[str]:
    """Sentences and parts between semicolons that have a letter."""
    found = [part.strip() for part in re.split(r"(?<=[.!?;])\s+|\n+", text)]
    return [part for part in found if re.search(r"[^\W\d_]", part)]


def oppose(clause: str) -> str:
    """Without its first negation, or with one."""
    return NEGATION.sub("", clause, count=1) if NEGATION.search(clause) else f"no {clause}"


def hash_text(text: str) -> int:
    """7 bytes of a hash, so that the number fits into int64. Case and blanks do not count."""
    plain = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=7).digest(), "big")


def cut(ids: list[int], length: int) -> list[int]:
    """The first tokens and the end token."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def pad_texts(texts: list[list[int]], length: int, value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, length]."""
    ids = torch.tensor([text + [value] * (length - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return ids, mask
