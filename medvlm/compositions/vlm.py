"""Vision-language model of encoders, connectors and a language model. It reads images and answers in text, and
draws masks if it has a decoder that reads the language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

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
from medvlm.compositions._drawing import DrawingModel, check_tokens
from medvlm.core.ask import Files
from medvlm.core.chat_templates import add_system
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.config import Slot, component
from medvlm.core.decoder_config import list_drawing
from medvlm.core.errors import CheckpointError
from medvlm.core.sample import Sample
from medvlm.data.composed import ComposedPrepare
from medvlm.data.dialogue import Dialogue
from medvlm.models.compose import build_vlm
from medvlm.models.parts import encode, evaluating
from medvlm.models.vlm import VLM

CAN = frozenset({"answer", "draw", "weigh", "represent"})
PARTS = ("encoders", "connectors", "language", "lora", "decoders")
TAKES_ANY_SIZE = False
MODEL = VLM
NOUN, HUB_TASK = "a vision-language model", "image-text-to-text"
SUMMARY = "A vision-language model that reads images and answers in text"
TOKENIZER = "tokenizer"
KIND = "vlm"
serves = serve


class Config(CompositionConfig):
    kind: Literal["vlm"]


def reason(model: Any) -> str | None:
    """Requires encoders and a language model."""
    if why := explain_unfit_encoders(model):
        return why
    if model.language is None:
        return "model.language is missing; add it, e.g. {kind: causal, model: Qwen/Qwen3-4B-Instruct-2507}"
    return None


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    tokenizer = load_tokenizer(recipe, folder, train)
    if recipe.model.system:
        add_system(tokenizer, recipe.model.system)
    path = make_data_path(recipe.model, Dialogue(tokenizer, tokenizer.image_token))
    return Assembly(recipe.model, recipe.seed, tokenizer, _arrange_rows(path, recipe.model.language))


def _arrange_rows(path: ComposedPrepare, language: Any) -> ComposedPrepare:
    return replace(path, shares_rows=not component("backbones", language.kind).HAS_ENCODER)


def build(assembly: Assembly, stage: Any, weights: bool = True) -> VLM:
    model, tokenizer = assembly.model, assembly.tokenizer
    decoders = list_drawing(model.decoders, draws=True)
    if assembly.knows_words:
        check_tokens(decoders, tokenizer)
    return build_vlm(model.encoders, model.language, tokenizer, tokenizer.image_token, assembly.seed, decoders)


class SplicedModel(DrawingModel):
    """A language model with spliced-in encoders."""

    def embed_each(self, sample: Sample, files: Files) -> Iterator[torch.Tensor]:
        for name, pixels in self.prepare.see(sample, files).media:
            with evaluating(self.model):
                pooled = encode(self.model.encoders[name], pixels[None].to(self.device), name).pooled
            yield pooled[0]


def open(assembly: Assembly, stage: Any, model: VLM) -> SplicedModel:
    decoders = list_drawing(assembly.model.decoders, draws=True)
    return SplicedModel(CAN, model, assembly.prepare, assembly.tokenizer, decoders)


class Manifest(ComposedManifest):
    language: Annotated[Any, Slot("backbones")]
    image_token: str
    decoders: dict[str, Annotated[Any, Slot("decoders")]] = Field({}, exclude_if=lambda decoders: not decoders)


def describe(model: VLM, tokenizer: Any, recipe: Any, stage: Any) -> Manifest:
    language = recipe.model.language
    return Manifest.model_construct(
        **describe_parts(model, recipe, KIND),
        language=component("backbones", language.kind).standalone(language, model.language),
        image_token=tokenizer.convert_ids_to_tokens(model.image_token_id),
        decoders=list_drawing(recipe.model.decoders, draws=True),
    )


def restore(manifest: Manifest, tokenizer: Any) -> SplicedModel:
    if manifest.image_token not in tokenizer.get_vocab():
        raise CheckpointError("model.json: image_token is no token of the tokenizer; copy the folder again")
    decoders = manifest.decoders
    model = build_vlm(manifest.encoders, manifest.language, tokenizer, manifest.image_token, 0, decoders)
    path = restore_data_path(manifest, Dialogue(tokenizer, manifest.image_token))
    return SplicedModel(CAN, model, _arrange_rows(path, manifest.language), tokenizer, decoders)


def open_published(where: str, device: str) -> None:
    """None: composed models are published in the format of the families that they are exported to."""
