"""Finds what phrases name, as boxes: a DETR whose classes are texts (GLIP, arXiv 2112.03857; Grounding DINO, arXiv
2303.05499), small enough for any of our towers.

Each class is a phrase, its name or what `phrases` says, that a text tower reads. Places of the image and phrases attend
to each other (`fusions` layers; GLIP, equations 4 to 6). Each place proposes a box, and the places that agree best with
any phrase become the queries (language-guided selection, Grounding DINO, section 3.2), whose boxes each decoder layer
refines. A query is of a phrase as far as their vectors agree: the scaled product with a bias, both learnt (GLIP). No
weight depends on the classes: the same weights find other phrases.

Differing from both, attention of queries to places is plain, not deformable; a phrase is one vector, where theirs is
one for each word; and all layers share their width with the text.
The output of a query is [K logits, centre and sides in shares of the input (y, x, height, width), the input's height
and width in pixels]. In training, the proposals and all layers but the last are side outputs.
Axes: T places, K phrases, P phrases and prompts of the bank, Q queries, W width, H heads.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import relu

from medvlm.core.config import Slot
from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts
from medvlm.core.errors import ShapeError
from medvlm.decoders._bank import choose
from medvlm.decoders._found import FOUND, choose_sure, list_found, make_no_objects
from medvlm.decoders._phrases import Ids, Phrases, make_standalone, tokenize

OUTPUT = "box_set"
ANSWERS = "detections"
RARE = 0.01
"""The share of pairs that agree before training, as for the focal loss of RetinaNet."""
SIDE = 0.05
"""Of a proposed box before training, in shares of the input, on the finest level; twice that on the next."""


class Config(DecoderConfig):
    kind: Literal["grounded"]
    ALWAYS_EXCLUSIVE = False
    exclusive: bool = False
    text: Annotated[Any, Slot("texts")]
    """The text tower that reads the phrases. From scratch (`config`), it reads bytes."""
    phrases: dict[str, str] = {}
    """Class -> what is looked for, e.g. {WBC: a white blood cell with a purple nucleus}; by default its name."""
    bank: tuple[str, ...] = Field((), exclude_if=lambda bank: not bank)
    """Further texts that tell what classes look like (colour, shape, texture, place). Each fusion layer uses those that
    an image needs (StructuralGLIP, arXiv 2502.16223)."""
    selects: bool = Field(True, exclude_if=lambda selects: selects)
    """Whether places and bank choose each other; false: all of both are read, as the authors' code runs."""
    ids: Ids = Field((), exclude_if=lambda ids: not ids)
    """The tokens of all phrases and of the bank, as an exported model has them; by default of the text's tokenizer."""
    width: int = Field(256, gt=0, multiple_of=16)
    heads: int = Field(8, gt=0)
    fusions: int = Field(6, ge=0)
    """Layers in which image and text attend to each other; 0: the text is read only at the end."""
    layers: int = Field(6, gt=0)
    """Of the decoder; the stage has as many weights in `sides`."""
    queries: int = Field(100, gt=0)
    """Boxes that are given for an image, at most."""
    least: float = Field(0.05, gt=0, lt=1)
    """Boxes with a lower score are not given."""
    overlap: float = Field(0.6, gt=0, le=1)
    """Of two boxes of a phrase that overlap by more than this IoU, the surer one is kept."""

    @model_validator(mode="after")
    def _phrases_are_of_classes(self) -> Self:
        if unknown := sorted(set(self.phrases) - set(self.classes)):
            raise ValueError(f"phrases: {unknown[0]!r} is none of the classes ({', '.join(self.classes)})")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}; change one of them")
        return self

    def list_texts(self) -> list[str]:
        return [*(self.phrases.get(name, name) for name in self.classes), *self.bank]


def scale_down(config: Config) -> Config:
    """Layers stay, as the stage has a weight for each."""
    return config.model_copy(update={"width": 32, "heads": 2, "fusions": min(config.fusions, 2), "queries": 12})


def standalone(config: Config) -> Config:
    known = config.ids or tokenize(config.text, config.list_texts())
    return config.model_copy(update={"text": make_standalone(config.text), "ids": known})


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """The number of queries is known once the levels are: 0 stands for it. Raises ShapeError for volumes."""
    if (grid is not None and len(grid) != 2) or (input_shape is not None and len(input_shape) != 3):
        raise ShapeError("grounded finds boxes in images, and its encoder takes volumes; use an encoder of images")
    return DecoderFacts((0, len(config.classes) + 6))


def reads_levels(config: Config) -> bool:
    return True


def make_blank_label(config: Config) -> Any:
    return make_no_objects()


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], levels: tuple[Level, ...]
) -> nn.Module:
    """Reads the `levels` of the encoder, or its patch tokens if it has none. Raises ShapeError for volumes."""
    facts(config, width, grid, input_shape)
    return Grounded(config, levels or (Level(width, tuple(grid)),), tuple(input_shape[1:]), bool(levels))


class Grounded(nn.Module):
    """Features -> [N, Q, K + 6]; in training [the same, of the proposals, of the layers before the last ...]. phrases:
    what reads the text, the only part that could be frozen on its own. net: all else."""

    def __init__(self, config: Config, levels: tuple[Level, ...], size: tuple[int, ...], reads_levels: bool):
        super().__init__()
        self.phrases = Phrases(config.text, config.ids or tokenize(config.text, config.list_texts()))
        self.net = Net(config, self.phrases.width, levels, size, reads_levels)
        self.sides: tuple[tuple[int, ...], ...] = ((),) * config.layers

    def forward(self, features: Features) -> Any:
        found = self.net(features, self.phrases())
        return [found[-1], *found[:-1]] if self.training else found[-1]


class Net(nn.Module):
    """Features and texts [P, E] -> outputs [N, Q, K + 6] of the proposals and of each layer."""

    def __init__(
        self, config: Config, said_width: int, levels: tuple[Level, ...], size: tuple[int, ...], reads_levels: bool
    ):
        super().__init__()
        width, self.count, self.reads_levels = config.width, len(config.classes), reads_levels
        self.queries, self.size, self.grids = config.queries, size, [tuple(level.grid) for level in levels]
        self.read = nn.Linear(said_width, width)
        self.open = nn.ModuleList(nn.Sequential(nn.Linear(level.width, width), nn.LayerNorm(width)) for level in levels)
        self.of_level = nn.Parameter(0.02 * torch.randn(len(levels), width))
        bank = bool(config.bank) and config.selects
        self.fuse = nn.ModuleList(Fusion(width, config.heads, self.count, bank) for _ in range(config.fusions))
        self.propose = Boxes(width)
        self.layers = nn.ModuleList(Layer(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.full((), -math.log((1 - RARE) / RARE)))

    def forward(self, features: Features, said_PE: torch.Tensor) -> list[torch.Tensor]:
        seen_NTW, prior_T4 = self._open(features)
        coded_T = encode_places(prior_T4, seen_NTW.shape[2])
        said_NPW = self.read(said_PE.to(seen_NTW.dtype)).expand(len(seen_NTW), -1, -1)
        for fuse in self.fuse:
            seen_NTW, said_NPW = fuse(seen_NTW, coded_T, said_NPW, self.grids)
        said_NKW = said_NPW[:, : self.count]
        boxes_NT4 = (unsquash(prior_T4) + self.propose(seen_NTW)).sigmoid()
        told_NTK = self._agree(seen_NTW, said_NKW)
        best_NQ = told_NTK.amax(2).topk(min(self.queries, told_NTK.shape[1]), 1).indices[..., None]
        queries, boxes, told = (each.take_along_dim(best_NQ, 1) for each in (seen_NTW, boxes_NT4, told_NTK))
        found = [self._write(told, boxes)]
        for layer in self.layers:
            boxes = boxes.detach()
            queries, moved = layer(queries, encode_places(boxes, queries.shape[2]), seen_NTW, coded_T, said_NKW)
            boxes = (unsquash(boxes) + moved).sigmoid()
            found.append(self._write(self._agree(queries, said_NKW), boxes))
        return found

    def _open(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """The places of all levels [N, T, W], and the boxes that they begin with [T, 4]."""
        levels = (
            [each.flatten(2).transpose(1, 2) for each in features.levels] if self.reads_levels else [features.patches]
        )
        opened, priors = [], []
        for number, (level, project, grid) in enumerate(zip(levels, self.open, self.grids, strict=True)):
            opened.append(project(level) + self.of_level[number])
            y, x = ((torch.arange(n, device=level.device) + 0.5) / n for n in grid)
            centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)
            priors.append(torch.cat([centres, torch.full_like(centres, min(SIDE * 2**number, 0.5))], 1))
        return torch.cat(opened, 1), torch.cat(priors).to(opened[0].dtype)

    def _agree(self, places: torch.Tensor, said_NKW: torch.Tensor) -> torch.Tensor:
        """Logits of pairs [N, X, K]."""
        product = self.norm(places) @ said_NKW.transpose(1, 2) / math.sqrt(said_NKW.shape[2])
        agreed: torch.Tensor = product * self.scale.exp() + self.bias
        return agreed

    def _write(self, told: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        pixels = torch.promote_types(told.dtype, torch.float32)  # bfloat16 has 518 as 520
        size = torch.tensor(self.size, device=told.device, dtype=pixels).expand(*told.shape[:2], 2)
        return torch.cat([told, boxes, size], 2)


class Fusion(nn.Module):
    """Places [N, T, W] and texts [N, P, W] -> the same, after each has attended to the other. One product of both is
    read in both directions (GLIP, equation 5). selects: those attend that choose each other (_bank.py)."""

    def __init__(self, width: int, heads: int, phrases: int, selects: bool):
        super().__init__()
        self.heads, self.count, self.selects = heads, phrases, selects
        self.norm_seen, self.norm_said = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.name = nn.Linear(width, width), nn.Linear(width, width)
        self.show, self.say = nn.Linear(width, width), nn.Linear(width, width)
        self.close_seen, self.close_said = nn.Linear(width, width), nn.Linear(width, width)

    def forward(
        self, seen_NTW: torch.Tensor, coded_TW: torch.Tensor, said_NPW: torch.Tensor, grids: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen, said = self.norm_seen(seen_NTW), self.norm_said(said_NPW)
        asked, named, shown, told = map(
            self._split, (self.ask(seen + coded_TW), self.name(said), self.show(seen), self.say(said))
        )
        logits_NHTP = asked @ named.transpose(2, 3) / math.sqrt(asked.shape[3])
        to_said, to_seen = logits_NHTP, logits_NHTP
        if self.selects:
            kept_NT, used_NP = choose(logits_NHTP.softmax(3).mean(1), grids, self.count)
            to_said = to_said.masked_fill(~used_NP[:, None, None], -math.inf)
            to_seen = to_seen.masked_fill(~kept_NT[:, None, :, None], -math.inf)
        heard = (to_said.softmax(3) @ told).transpose(1, 2).flatten(2)
        looked = (to_seen.softmax(2).transpose(2, 3) @ shown).transpose(1, 2).flatten(2)
        return seen_NTW + self.close_seen(heard), said_NPW + self.close_said(looked)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Queries [N, Q, W] -> the same, after they have attended to each other, to the phrases and to the places; and what
    is added to the logits of their boxes."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.place = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.among, self.to_said, self.to_seen = (
            nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(3)
        )
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.refine = Boxes(width)

    def forward(
        self,
        x: torch.Tensor,
        coded_NQW: torch.Tensor,
        seen_NTW: torch.Tensor,
        coded_TW: torch.Tensor,
        said: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        placed = self.place(coded_NQW)
        x = self.norms[0](x + self.among(x + placed, x + placed, x, need_weights=False)[0])
        x = self.norms[1](x + self.to_said(x + placed, said, said, need_weights=False)[0])
        x = self.norms[2](x + self.to_seen(x + placed, seen_NTW + coded_TW, seen_NTW, need_weights=False)[0])
        x = self.norms[3](x + self.mix(x))
        return x, self.refine(x)


class Boxes(nn.Module):
    """[..., W] -> what is added to the logits of a box [..., 4]; nearly 0 before training."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = self.last(relu(self.second(relu(self.first(x)))))
        return moved


def unsquash(shares: torch.Tensor) -> torch.Tensor:
    return shares.clamp(1e-4, 1 - 1e-4).logit()


def encode_places(boxes: torch.Tensor, width: int) -> torch.Tensor:
    """Boxes [..., 4] in shares of the input -> [..., width]: sines and cosines of each number (DAB-DETR, arXiv
    2201.12329, section 3.2)."""
    count = width // 8
    rates = 2 * math.pi * 20 ** (-torch.arange(count, device=boxes.device, dtype=boxes.dtype) / count) * 20
    angles = boxes[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def to_answers(config: Config, logits: torch.Tensor) -> torch.Tensor:
    """[N, FOUND, 6], see list_found()."""
    classes, answers = len(config.classes), []
    for rows in logits:
        scores = rows[:, :classes].sigmoid()
        at, of = choose_sure(scores, config.least)
        centres, half = rows[at, classes : classes + 2], rows[at, classes + 2 : classes + 4] / 2
        corners = torch.cat([centres - half, centres + half], 1) * rows[at, classes + 4 :].repeat(1, 2)
        answers.append(list_found(corners, of, scores[at, of], config.overlap))
    return torch.stack(answers) if answers else logits.new_zeros(0, FOUND, 6)
