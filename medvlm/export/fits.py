"""Checks whether a composition fits an export target, from the recipe alone, for targets with one image tower."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.core.config import component
from medvlm.core.decoder_config import list_drawing
from medvlm.data.transforms import explain_not_stock

TRANSFORMERS, TIMM = "transformers", "timm"


def library_of(slot: str, part: Any) -> str:
    """The library whose class the `tower` of an encoder or text tower is; "" for code of its own."""
    library: str = getattr(component(slot, part.kind), "LIBRARY", "")
    return library


def stock_class_of(connector: Any) -> str:
    """The transformers module that computes the same as a connector, with the same parameter names; "" if none does."""
    find: Any = getattr(component("connectors", connector.kind), "stock_class", None)
    return find(connector) if find else ""


def explain_drawing(model: Any) -> str | None:
    """Why a stock class cannot hold a language model that draws, or None if it does not draw."""
    drawing = list_drawing(model.decoders, draws=True)
    return f"it draws with decoders.{next(iter(drawing))}, which no stock class has" if drawing else None


def check_one_tower(model: Any, library: str = TRANSFORMERS) -> str | None:
    """Why the model does not have exactly one encoder, of this library, with stock preprocessing, and a language model
    that stock classes take, if any. None if it does."""
    if len(model.encoders) != 1:
        return f"it has {len(model.encoders)} encoders ({', '.join(model.encoders)}), and the stock class takes one"
    ((name, encoder),) = model.encoders.items()
    language = model.language
    if language is not None and component("backbones", language.kind).HAS_ENCODER:
        return f"model.language is of kind {language.kind}, and the stock class takes a causal language model"
    if library_of("encoders", encoder) != library:
        return f"encoders.{name} is of kind {encoder.kind}, and the stock class needs a tower of {library}"
    return check_preprocessing(name, encoder)


def choose_encoder(model: Any, part: str) -> tuple[str, Any, str]:
    """(name, config, "") of the encoder to export, or ("", None, the reason why there is none).

    part: the encoder's name; "" if the model has only one."""
    if not model.encoders:
        return "", None, "the encoder of a ready model cannot be exported by itself"
    if not part and len(model.encoders) == 1:
        ((name, encoder),) = model.encoders.items()
        return name, encoder, ""
    if part in model.encoders:
        return part, model.encoders[part], ""
    choices = ", ".join(f"encoder.{name}" for name in model.encoders)
    why = f"there is no encoder {part!r}" if part else "it has several encoders"
    return "", None, f"{why}: choose one of {choices}"


def check_preprocessing(name: str, encoder: Any) -> str | None:
    """Why no stock image processor can do the encoder's preprocessing, or None.

    A preprocess.window is allowed: it is applied before the stock processor, and the model card explains how.
    """
    before = encoder.preprocess
    if reason := component("encoders", encoder.kind).not_stock(encoder):
        return f"encoders.{name}.{reason}"
    if before is not None and (reason := explain_not_stock(before)):
        return f"encoders.{name}.preprocess.{reason}"
    if before is not None and before.channels != 3:
        return (
            f"encoders.{name}.preprocess.channels is {before.channels}, and the stock image processor always makes 3"
            " channels"
        )
    return None


def check_two_towers(model: Any, stages: Sequence[Any], family: str, vision: str, text: str) -> str | None:
    """Why the model is not one vision and one text tower of these model_types, or None.

    family: the stock class's name for messages. vision, text: the model_types it takes."""
    if why := check_one_tower(model):
        return why
    ((name, encoder),) = model.encoders.items()
    tower = text_of(stages)
    if tower is not None and library_of("texts", tower) != TRANSFORMERS:
        return f"the text tower is of kind {tower.kind}, and {family} needs a {text}"
    for what, part, wanted, key in (
        (f"encoders.{name}", encoder, vision, "vision_config"),
        ("the text tower", tower, text, "text_config"),
    ):
        known = find_model_type(part, key) if part is not None else None
        if known and known != wanted:
            return f"{what} is a {known}, and {family} needs a {wanted}"
    return None


def text_of(stages: Sequence[Any]) -> Any | None:
    """The text tower of a dual encoder, from the last stage that has one."""
    stage = find_pairing_stage(stages)
    return stage and next(iter(stage.list_text_towers().values()))


def find_pairing_stage(stages: Sequence[Any]) -> Any | None:
    """The last stage with a text tower, or None."""
    return next((stage for stage in reversed(stages) if stage.list_text_towers()), None)


def find_model_type(part: Any, key: str = "vision_config") -> str | None:
    """The model_type of a transformers tower, or None if only its hub id is known and its config is not on this
    machine. In the config of a whole CLIP or SigLIP, the tower's own config is under `key`."""
    if part.config:
        kind: str = part.config["model_type"]
        return kind
    stored = Path(part.model) / "config.json"
    if not stored.is_file():
        return None
    found = json.loads(stored.read_text())
    inner: str | None = found.get(key, found).get("model_type")
    return inner
