"""What compositions of encoders with other parts have in common: the run's tokenizer, the data path, what is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.data.dialogue import Dialogue
from medvlm.data.prepare import Prepare, make_prepare
from medvlm.data.vocabulary import saved_tokenizer
from medvlm.models.parts import preprocess_of, tokens_of
from medvlm.tasks._writing import Writing


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
    untrained = [text for stage in recipe.stages for text in stage.texts().values() if not text.model]
    return saved_tokenizer(folder, lambda: train(untrained[0].vocabulary)) if untrained else None


def make_data_path(model: Any, dialogue: Dialogue | None) -> Prepare:
    writing = Writing(model.boxes.codec or "thousandths", model.boxes.scale)
    return make_prepare(model.encoders, preprocess_of(model.encoders), tokens_of(model.encoders), dialogue, writing)


def refuse_to_train(size: int) -> Any:
    """In the place of `train` where a tokenizer is only to be loaded."""
    raise RecipeError("the folder holds no tokenizer; train the run first")
