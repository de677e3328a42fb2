"""Parts that all compositions of encoders share: tokenizer, data path, manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import model_validator
from torch import nn

from medvlm.compositions._folder import FolderManifest
from medvlm.core.composition import Assembly
from medvlm.core.config import Slot, component
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import RecipeError
from medvlm.data.composed import ComposedPrepare, make_prepare
from medvlm.data.dialogue import Dialogue
from medvlm.data.estimate import EstimatedTokenizer
from medvlm.data.vocabulary import load_or_make_tokenizer
from medvlm.models.parts import preprocess_of, tokens_of
from medvlm.tasks._writing import Writing

BOX_CODEC = "thousandths"
"""How a composed model writes boxes by default."""


class ComposedManifest(FolderManifest):
    """Base of the manifests of all models composed of encoders."""

    encoders: dict[str, Annotated[Any, Slot("encoders")]]
    box_codec: str = BOX_CODEC
    """How boxes are written in answers, see tasks/codecs."""
    box_scale: int = 1000

    @model_validator(mode="before")
    @classmethod
    def _drop_unused(cls, written: Any) -> Any:
        """Earlier releases wrote the keys of all compositions and left those of other compositions empty."""
        if not isinstance(written, dict):
            return written
        return {key: value for key, value in written.items() if value or key in cls.model_fields}


def explain_unfit_encoders(model: Any) -> str | None:
    """Why `model` has no encoders to build on, or None."""
    if model.pretrained:
        return "model.pretrained is a whole model; compose one from `encoders`"
    return None if model.encoders else "model.encoders is empty: add an encoder"


def serve(model: Any) -> Mapping[str, tuple[str, ...] | None]:
    """Encoder -> the kinds of media in its `serves`, by default the kind that it is named after."""
    return {name: encoder.serves or (name,) for name, encoder in model.encoders.items()}


def load_tokenizer(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Any:
    """The tokenizer of the language model. Without one: a trained tokenizer if a text tower starts from scratch, else
    None."""
    language = recipe.model.language
    if language is not None:
        return component("backbones", language.kind).tokenizer(language, train, folder)
    untrained = [text for stage in recipe.stages for text in stage.list_text_towers().values() if not text.model]
    return load_or_make_tokenizer(folder, lambda: train(untrained[0].vocabulary)) if untrained else None


def make_tower_tokenizer(assembly: Assembly, text: Any) -> Any:
    """The tokenizer of a text tower, by its config; of a plan, one that tells how many tokens there are."""
    tokenizer = component("texts", text.kind).tokenizer(text, assembly.tokenizer)
    return tokenizer if assembly.knows_words else EstimatedTokenizer(tokenizer)


def make_data_path(model: Any, dialogue: Dialogue | None) -> ComposedPrepare:
    return _build_data_path(model.encoders, dialogue, Writing(model.boxes.codec or BOX_CODEC, model.boxes.scale))


def restore_data_path(manifest: ComposedManifest, dialogue: Dialogue | None) -> ComposedPrepare:
    return _build_data_path(manifest.encoders, dialogue, Writing(manifest.box_codec, manifest.box_scale))


def _build_data_path(encoders: Any, dialogue: Dialogue | None, writing: Writing) -> ComposedPrepare:
    return make_prepare(encoders, preprocess_of(encoders), tokens_of(encoders), dialogue, writing)


def describe_parts(model: Any, recipe: Any, kind: str) -> dict[str, Any]:
    """The fields of ComposedManifest. Each part is described by its own config and preprocessing, not by an id or
    path."""
    configs = recipe.model.encoders
    before = preprocess_of(configs)
    return {
        "makes": kind,
        "plugins": recipe.plugins,
        "encoders": {name: _describe_encoder(c, before[name], model.encoders[name]) for name, c in configs.items()},
        "box_codec": recipe.model.boxes.codec or BOX_CODEC,
        "box_scale": recipe.model.boxes.scale,
    }


def _describe_encoder(config: Any, before: Preprocess, built: nn.Module) -> Any:
    fixed = config.model_copy(update={"preprocess": before}) if "preprocess" in type(config).model_fields else config
    return component("encoders", config.kind).standalone(fixed, built)


def refuse_to_train(size: int) -> Any:
    """Passed as `train` if a tokenizer may only be loaded."""
    raise RecipeError("the folder holds no tokenizer; train the run first")
