"""What compositions of encoders with other parts have in common: the run's tokenizer, the data path, what is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import model_validator
from torch import nn

from medvlm.compositions._folder import Manifest
from medvlm.core.config import Slot, component
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import RecipeError
from medvlm.data.composed import ComposedPrepare, make_prepare
from medvlm.data.dialogue import Dialogue
from medvlm.data.vocabulary import load_or_make_tokenizer
from medvlm.models.parts import preprocess_of, tokens_of
from medvlm.tasks._writing import Writing

BOX_CODEC = "thousandths"
"""How a composed model writes boxes where the recipe does not say."""


class ComposedManifest(Manifest):
    """What models of encoders have in common."""

    encoders: dict[str, Annotated[Any, Slot("encoders")]]
    box_codec: str = BOX_CODEC
    """How boxes in answers are written, see tasks/codecs."""
    box_scale: int = 1000

    @model_validator(mode="before")
    @classmethod
    def _drop_unused(cls, written: Any) -> Any:
        """Folders of earlier releases have the keys of all compositions; those of others are empty."""
        if not isinstance(written, dict):
            return written
        return {key: value for key, value in written.items() if value or key in cls.model_fields}


def encoders_reason(model: Any) -> str | None:
    """Why there are no encoders to build on, or None."""
    if model.pretrained:
        return "model.pretrained is a whole model; compose one from `encoders`"
    return None if model.encoders else "model.encoders is empty: add an encoder"


def serve(model: Any) -> Mapping[str, tuple[str, ...] | None]:
    """An encoder serves the kinds of media that it lists, or the kind that it is named after."""
    return {name: encoder.serves or (name,) for name, encoder in model.encoders.items()}


def load_tokenizer(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Any:
    """The run's tokenizer: that of the language model, else one that is trained for the text towers that start from
    scratch, else None."""
    language = recipe.model.language
    if language is not None:
        return component("backbones", language.kind).tokenizer(language, train, folder)
    untrained = [text for stage in recipe.stages for text in stage.list_text_towers().values() if not text.model]
    return load_or_make_tokenizer(folder, lambda: train(untrained[0].vocabulary)) if untrained else None


def make_data_path(model: Any, dialogue: Dialogue | None) -> ComposedPrepare:
    return _data_path(model.encoders, dialogue, Writing(model.boxes.codec or BOX_CODEC, model.boxes.scale))


def restore_data_path(manifest: ComposedManifest, dialogue: Dialogue | None) -> ComposedPrepare:
    return _data_path(manifest.encoders, dialogue, Writing(manifest.box_codec, manifest.box_scale))


def _data_path(encoders: Any, dialogue: Dialogue | None, writing: Writing) -> ComposedPrepare:
    return make_prepare(encoders, preprocess_of(encoders), tokens_of(encoders), dialogue, writing)


def describe_parts(model: Any, recipe: Any, kind: str) -> dict[str, Any]:
    """What every composed manifest holds: each part by its own config and preprocessing, and by no id or path."""
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
    """In the place of `train` where a tokenizer is only to be loaded."""
    raise RecipeError("the folder holds no tokenizer; train the run first")
