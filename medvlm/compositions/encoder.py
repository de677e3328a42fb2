"""Encoders with decoders, which give class scores and masks of media. There is no language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from medvlm.compositions._composed import (
    ComposedManifest,
    describe_parts,
    explain_unfit_encoders,
    load_tokenizer,
    make_data_path,
    make_tower_tokenizer,
    restore_data_path,
    serve,
)
from medvlm.compositions._decoding import DecodingModel
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.config import Slot, component
from medvlm.core.decoder_config import (
    list_drawing,
    list_texts,
)
from medvlm.models.decoding import Decoding, build_decoding

CAN = DecodingModel.CAN
PARTS = ("encoders", "decoders", "text", "lora")
TAKES_ANY_SIZE = False
MODEL = Decoding
NOUN, HUB_TASK = "a model with decoders", "image-feature-extraction"
SUMMARY = "Image encoders with decoders that give class scores and masks"
TOKENIZER = "text_tokenizer"
KIND = "encoder"
serves = serve


class Config(CompositionConfig):
    kind: Literal["encoder"]


def reason(model: Any) -> str | None:
    if why := explain_unfit_encoders(model):
        return why
    if not list_drawing(model.decoders, draws=False):
        return (
            "model.decoders is empty: add one that reads images alone, e.g. {lesion: {kind: conv_mask, classes:"
            " [lesion]}}"
        )
    return None


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    reads_texts = any(map(list_texts, recipe.model.decoders.values()))
    tokenizer = load_tokenizer(recipe, folder, train) if reads_texts else None
    return Assembly(recipe.model, recipe.seed, tokenizer, make_data_path(recipe.model, None))


def build(assembly: Assembly, stage: Any, weights: bool = True) -> Decoding:
    """stage: with `text`, the text tower, if a decoder reads texts."""
    decoders, text = list_drawing(assembly.model.decoders, draws=False), _find_text(stage)
    tokenizer = None if text is None else component("texts", text.kind).tokenizer(text, assembly.tokenizer)
    return build_decoding(assembly.model.encoders, decoders, assembly.seed, text, tokenizer)


def _find_text(stage: Any) -> Any:
    """The text tower of a stage that trains decoders; None without one."""
    return next(iter(stage.list_text_towers().values()), None) if hasattr(stage, "list_text_towers") else None


def make_text_tokenizer(assembly: Assembly, stage: Any) -> Any:
    """The tokenizer of the text tower of a stage; None without one."""
    text = _find_text(stage)
    return None if text is None else make_tower_tokenizer(assembly, text)


def open(assembly: Assembly, stage: Any, model: Decoding) -> DecodingModel:
    decoders, tokenizer = list_drawing(assembly.model.decoders, draws=False), make_text_tokenizer(assembly, stage)
    return DecodingModel(model, assembly.prepare, decoders, _find_text(stage), tokenizer)


class Manifest(ComposedManifest):
    decoders: dict[str, Annotated[Any, Slot("decoders")]]
    text: Annotated[Any, Slot("texts", optional=True)] = Field(None, exclude_if=lambda text: text is None)

    def reads_texts(self) -> bool:
        return self.text is not None


def describe(model: Decoding, tokenizer: Any, recipe: Any, stage: Any) -> Manifest:
    decoders = {name: _fix(each) for name, each in list_drawing(recipe.model.decoders, draws=False).items()}
    text = _find_text(stage)
    fixed = None if text is None else component("texts", text.kind).standalone(text, model.text)
    return Manifest.model_construct(**describe_parts(model, recipe, KIND), decoders=decoders, text=fixed)


def _fix(decoder: Any) -> Any:
    """Its settings without an id or a path of weights."""
    standalone = getattr(component("decoders", decoder.kind), "standalone", None)
    return standalone(decoder) if standalone else decoder


def restore(manifest: Manifest, tokenizer: Any) -> DecodingModel:
    model = build_decoding(manifest.encoders, manifest.decoders, 0, manifest.text, tokenizer)
    return DecodingModel(model, restore_data_path(manifest, None), manifest.decoders, manifest.text, tokenizer)


def open_published(where: str, device: str) -> None:
    """None: a published tower has no decoders of medvlm."""
