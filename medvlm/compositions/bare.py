"""Encoders alone, which are trained on images without labels or texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medvlm.compositions._composed import (
    ComposedManifest,
    describe_parts,
    explain_unfit_encoders,
    make_data_path,
    restore_data_path,
    serve,
)
from medvlm.compositions._opened import AssembledModel
from medvlm.core.ask import Files
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.sample import Sample
from medvlm.models.parts import build_encoders, encode, evaluating
from medvlm.models.pretraining import OBJECTIVE, Pretraining, build_pretraining

CAN = frozenset({"pretrain", "represent"})
PARTS = ("encoders", OBJECTIVE)
TAKES_ANY_SIZE = False
MODEL = Pretraining
NOUN, HUB_TASK = "encoders alone", "image-feature-extraction"
SUMMARY = "Image encoders that were trained on images alone"
TOKENIZER = ""
KIND = "bare"
serves = serve
reason = explain_unfit_encoders


class Config(CompositionConfig):
    kind: Literal["bare"]


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    return Assembly(recipe.model, recipe.seed, None, make_data_path(recipe.model, None))


def build(assembly: Assembly, stage: Any, weights: bool = True) -> Pretraining:
    """stage: with `loss`, the method, and find_encoder(), the encoder that learns."""
    encoders = assembly.model.encoders
    return build_pretraining(encoders, stage.find_encoder(encoders), stage.loss, assembly.seed)


class RepresentingModel(AssembledModel):
    def embed_each(self, sample: Sample, files: Files) -> Iterator[torch.Tensor]:
        for name, pixels in self.prepare.see(sample, files).media:
            with evaluating(self.model):
                yield encode(self.model.encoders[name], pixels[None].to(self.device), name).pooled[0]


def open(assembly: Assembly, stage: Any, model: Pretraining) -> RepresentingModel:
    """What the method added is left out from here on, and so from exports."""
    model.objective = None
    return RepresentingModel(CAN, model, assembly.prepare, None)


class Manifest(ComposedManifest):
    pass


def describe(model: nn.Module, tokenizer: Any, recipe: Any, stage: Any) -> Manifest:
    return Manifest.model_construct(**describe_parts(model, recipe, KIND))


def restore(manifest: Manifest, tokenizer: Any) -> RepresentingModel:
    model = Pretraining(build_encoders(manifest.encoders, seed=0))
    return RepresentingModel(CAN, model, restore_data_path(manifest, None), None)


def open_published(where: str, device: str) -> None:
    """None: a published tower is opened by StockTower, with its own processor."""
