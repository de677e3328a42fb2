"""Dual encoder: encoders and a text tower that embed images and texts in one space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from medvlm.compositions._composed import (
    ComposedManifest,
    describe_parts,
    explain_unfit_encoders,
    load_tokenizer,
    make_data_path,
    restore_data_path,
    serve,
)
from medvlm.compositions._opened import AssembledModel
from medvlm.core.ask import Files
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.config import Slot, component
from medvlm.core.errors import RecipeError
from medvlm.core.joint import Towers
from medvlm.core.sample import Sample
from medvlm.data.estimate import EstimatedTokenizer
from medvlm.data.prepare import Prepare
from medvlm.data.texts import tokenize_text
from medvlm.models.parts import build_seeded, evaluating
from medvlm.models.towers import DualEncoder, build_dual, join_views

if TYPE_CHECKING:
    import numpy as np

CAN = frozenset({"embed", "represent"})
PARTS = ("encoders", "text", "heads", "terms")
TAKES_ANY_SIZE = False
MODEL = DualEncoder
NOUN, HUB_TASK = "a dual encoder", "zero-shot-image-classification"
SUMMARY = "An image and a text encoder that map both to one space"
TOKENIZER = "text_tokenizer"
KIND = "dual"
serves = serve
reason = explain_unfit_encoders


class Config(CompositionConfig):
    kind: Literal["dual"]


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    tokenizer = load_tokenizer(recipe, folder, train)
    return Assembly(recipe.model, recipe.seed, tokenizer, make_data_path(recipe.model, None))


def build(assembly: Assembly, stage: Any, weights: bool = True) -> DualEncoder:
    """stage: with `text`, the text tower, `width` of the shared space, `loss`, which gives the initial scale, and
    `terms`, the further losses."""
    log_scale, bias = component("objectives.pairs", stage.loss.kind).start(stage.loss)
    tokenizer, encoders = _tower_tokenizer(assembly, stage), assembly.model.encoders
    model = build_dual(encoders, stage.text, tokenizer, stage.width, log_scale, bias, assembly.seed)
    if stage.terms:
        towers = _describe_towers(assembly, stage, model, tokenizer)

        def build_term(name: str) -> torch.nn.Module:
            made: torch.nn.Module = component("objectives.joint", stage.terms[name].kind).build(
                stage.terms[name], towers
            )
            return made

        seeded = {name: build_seeded(assembly.seed, f"terms.{name}", partial(build_term, name)) for name in stage.terms}
        model.terms = torch.nn.ModuleDict(seeded)
    return model


def _describe_towers(assembly: Assembly, stage: Any, model: DualEncoder, tokenizer: Any) -> Towers:
    """Raises RecipeError for a text tower that gives no outputs of tokens."""
    ((_, encoder),) = model.encoders.items()
    if not hasattr(model.text, "read"):
        raise RecipeError(
            f"stages.{stage.name}.terms need the outputs of tokens, which {stage.text.kind} does not give"
        )
    reader = make_text_tokenizer(assembly, stage)

    def tokenize(text: str) -> list[int]:
        return tokenize_text(reader, text, stage.text, f"stages.{stage.name}.terms: {text[:40]!r}")

    return Towers(
        encoder.width,
        model.text.word_width,
        model.text.width,
        encoder.grid,
        encoder.input_shape,
        tokenize,
        len(tokenizer),
        tokenizer.pad_token_id,
        tokenizer.mask_token_id,
        getattr(encoder, "can_mask", False),
    )


def make_text_tokenizer(assembly: Assembly, stage: Any) -> Any:
    """The tokenizer of the text tower of a stage."""
    tokenizer = _tower_tokenizer(assembly, stage)
    return tokenizer if assembly.knows_words else EstimatedTokenizer(tokenizer)


def _tower_tokenizer(assembly: Assembly, stage: Any) -> Any:
    hides = any(getattr(term, "hides_words", False) for term in stage.terms.values())
    return component("texts", stage.text.kind).tokenizer(stage.text, assembly.tokenizer, hides)


class EmbeddingModel(AssembledModel):
    """tokenizer, text: of the text tower, its tokenizer and its config. views: how many media stand for a sample."""

    def __init__(self, model: Any, prepare: Prepare, tokenizer: Any, text: Any, views: int = 1):
        super().__init__(CAN, model, prepare, tokenizer)
        self.text, self.views = text, views

    def embed_media(self, items: Sequence[tuple[Sample, Files]]) -> np.ndarray:
        """Of several views, the first ones that an encoder takes."""
        return torch.stack([self._embed_views(sample, files).float().cpu() for sample, files in items]).numpy()

    def _embed_views(self, sample: Sample, files: Files) -> torch.Tensor:
        if self.views == 1:
            return next(self.embed_each(sample, files))
        fitting = [medium for medium in sample.media if self.prepare.takes(medium.kind)][: self.views]
        views_VP = torch.stack(list(self.embed_each(replace(sample, media=tuple(fitting)), files)))
        return join_views(views_VP, torch.arange(len(views_VP), device=views_VP.device)[None])[0]

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        rows: list[torch.Tensor] = []
        with evaluating(self.model):
            for text in texts:
                tokens = tokenize_text(self.tokenizer, text, self.text, "a text to embed")
                ids = torch.tensor([tokens], device=self.device)
                rows.append(self.model.embed_texts(ids, torch.ones_like(ids))[0].float().cpu())
        return torch.stack(rows).numpy()

    def embed_each(self, sample: Sample, files: Files) -> Iterator[torch.Tensor]:
        for name, pixels in self.prepare.see(sample, files).media:
            with evaluating(self.model):
                embedded = self.model.embed_media({name: pixels[None].to(self.device)})
            yield embedded[0]


def open(assembly: Assembly, stage: Any, model: DualEncoder) -> EmbeddingModel:
    """What further losses added is left out from here on, and so from exports."""
    model.terms = None
    return EmbeddingModel(model, assembly.prepare, make_text_tokenizer(assembly, stage), stage.text, stage.views)


class Manifest(ComposedManifest):
    text: Annotated[Any, Slot("texts")]
    width: int | None
    has_bias: bool = False
    views: int = Field(1, exclude_if=lambda count: count == 1)


def describe(model: DualEncoder, tokenizer: Any, recipe: Any, stage: Any) -> Manifest:
    return Manifest.model_construct(
        **describe_parts(model, recipe, KIND),
        text=component("texts", stage.text.kind).standalone(stage.text, model.text),
        width=stage.width,
        has_bias=model.heads["scale"].bias is not None,
        views=stage.views,
    )


def restore(manifest: Manifest, tokenizer: Any) -> EmbeddingModel:
    bias = 0.0 if manifest.has_bias else None
    model = build_dual(manifest.encoders, manifest.text, tokenizer, manifest.width, 0.0, bias, seed=0)
    return EmbeddingModel(model, restore_data_path(manifest, None), tokenizer, manifest.text, manifest.views)


def open_published(where: str, device: str) -> None:
    """None: a published dual encoder is opened by StockTower, with its own processor."""
