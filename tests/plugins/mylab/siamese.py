"""A composition: one encoder and a predictor, which tell how alike two images are. There is no text in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import normalize

from medvlm.compositions._composed import explain_unfit_encoders, make_data_path, serve
from medvlm.compositions._opened import AssembledModel
from medvlm.core.ask import Files
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.contracts import Outputs
from medvlm.core.sample import Sample
from medvlm.models.parts import build_encoders, build_seeded, encode, evaluating

CAN = frozenset({"compare"})
"""A word of our own: stages and protocols of this lab need it."""
PARTS = ("encoders", "predictor")
TAKES_ANY_SIZE = False
NOUN, HUB_TASK = "a siamese model", "image-feature-extraction"
SUMMARY = "tells how alike two images are"
Manifest = None  # no folder of `export.target: custom`; mylab.weights writes one of this lab
serves = serve


class Config(CompositionConfig):
    kind: Literal["mylab.siamese"]
    hidden: int = 32
    """Width of the predictor's hidden layer."""


@dataclass
class Views:
    """Two views of each image, [N, C, H, W]."""

    first: torch.Tensor
    second: torch.Tensor
    keys: tuple[str, ...]

    def to(self, device: torch.device) -> Views:
        return replace(self, first=self.first.to(device), second=self.second.to(device))


def reason(model: Any) -> str | None:
    if why := explain_unfit_encoders(model):
        return why
    return None if len(model.encoders) == 1 else "model.encoders: a siamese model has exactly one"


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    """No text, so no tokenizer."""
    return Assembly(recipe.model, recipe.seed, None, make_data_path(recipe.model, None))


def build(assembly: Assembly, stage: Any, weights: bool = True) -> Siamese:
    encoders = build_encoders(assembly.model.encoders, assembly.seed)
    hidden = assembly.model.composition.hidden
    return build_seeded(assembly.seed, "predictor", lambda: Siamese(encoders, hidden))


class Siamese(nn.Module):
    """forward(views) -> unit vectors: `predicted_NP` of the first view, and `seen_NP` of the second one."""

    runs_all = False

    def __init__(self, encoders: nn.ModuleDict, hidden: int):
        super().__init__()
        self.encoders = encoders
        (self.name,) = encoders
        width: Any = encoders[self.name].width
        self.predictor = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, views: Views) -> Outputs:
        predicted_NP = normalize(self.predictor(self.embed(views.first)), dim=-1)
        return {"predicted_NP": predicted_NP, "seen_NP": self.embed(views.second)}

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalize(encode(self.encoders[self.name], pixels, self.name).pooled, dim=-1)


MODEL = Siamese


class ComparingModel(AssembledModel):
    """Opened: it gives the vector of a sample's image, to be compared with others."""

    def embed_each(self, sample: Sample, files: Files) -> Iterator[torch.Tensor]:
        for _, pixels in self.prepare.see(sample, files).media:
            with evaluating(self.model):
                yield self.model.embed(pixels[None].to(self.device))[0]


def open(assembly: Assembly, stage: Any, model: Siamese) -> ComparingModel:
    return ComparingModel(CAN, model, assembly.prepare, None)


def open_published(where: str, device: str) -> None:
    """Nobody publishes such models."""
