"""What can be told of a composition from its recipe alone, for the targets that hold one tower."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.core.config import component
from medvlm.data.transforms import not_stock

TRANSFORMERS, TIMM = "transformers", "timm"


def library_of(slot: str, part: Any) -> str:
    """Of whose classes the `tower` of an encoder or text tower is one; "" where it is code of its own."""
    library: str = getattr(component(slot, part.kind), "LIBRARY", "")
    return library


def stock_class_of(connector: Any) -> str:
    """The module of transformers that computes what a connector computes, with the same names; "" where there is
    none."""
    find: Any = getattr(component("connectors", connector.kind), "stock_class", None)
    return find(connector) if find else ""


def one_tower(model: Any, library: str = TRANSFORMERS) -> str | None:
    """Why it is not one encoder of this library behind a stock image processor, or None."""
    if len(model.encoders) != 1:
        return f"it has {len(model.encoders)} encoders ({', '.join(model.encoders)}), and the stock class holds one"
    ((name, encoder),) = model.encoders.items()
    if library_of("encoders", encoder) != library:
        return f"encoders.{name} is of kind {encoder.kind}, and the stock class holds a tower of {library}"
    return behind_stock(name, encoder)


def encoder_of(model: Any, part: str) -> tuple[str, Any, str]:
    """(name, its config, "") of the one encoder that is meant, or ("", None, why there is none)."""
    if not model.encoders:
        return "", None, "the encoder of a ready model is not exported by itself"
    if not part and len(model.encoders) == 1:
        ((name, encoder),) = model.encoders.items()
        return name, encoder, ""
    if part in model.encoders:
        return part, model.encoders[part], ""
    choices = ", ".join(f"encoder.{name}" for name in model.encoders)
    return (
        "",
        None,
        (
            f"it has several encoders: choose one of {choices}"
            if not part
            else f"there is no encoder {part!r}: choose one of {choices}"
        ),
    )


def behind_stock(name: str, encoder: Any) -> str | None:
    """Why no stock image processor does the encoder's preprocessing, or None.

    A preprocess.window fits: it is applied before the stock processor, and the model card says how.
    """
    before = encoder.preprocess
    if reason := component("encoders", encoder.kind).not_stock(encoder):
        return f"encoders.{name}.{reason}"
    if before is not None and (reason := not_stock(before)):
        return f"encoders.{name}.preprocess.{reason}"
    if before is not None and before.channels != 3:
        return (
            f"encoders.{name}.preprocess.channels is {before.channels}, and the stock image processor makes 3 of every"
            " image"
        )
    return None


def two_towers(model: Any, stages: Sequence[Any], family: str, vision: str, text: str) -> str | None:
    """Why it is not one vision and one text tower of these model_types, or None."""
    if why := one_tower(model):
        return why
    ((name, encoder),) = model.encoders.items()
    tower = text_of(stages)
    if tower is not None and library_of("texts", tower) != TRANSFORMERS:
        return f"the text tower is of kind {tower.kind}, and {family} holds a {text}"
    for what, part, wanted, key in (
        (f"encoders.{name}", encoder, vision, "vision_config"),
        ("the text tower", tower, text, "text_config"),
    ):
        known = model_type(part, key) if part is not None else None
        if known and known != wanted:
            return f"{what} is a {known}, and {family} holds a {wanted}"
    return None


def text_of(stages: Sequence[Any]) -> Any | None:
    """The text tower of a dual encoder: that of the last stage that has one."""
    stage = pairing(stages)
    return stage and next(iter(stage.list_text_towers().values()))


def pairing(stages: Sequence[Any]) -> Any | None:
    """The last stage with a text tower, or None."""
    return next((stage for stage in reversed(stages) if stage.list_text_towers()), None)


def model_type(part: Any, key: str = "vision_config") -> str | None:
    """Of a tower of transformers, which a whole CLIP or SigLIP holds under `key`; None where it is only known by a hub
    id that is not here."""
    if part.config:
        kind: str = part.config["model_type"]
        return kind
    stored = Path(part.model) / "config.json"
    if not stored.is_file():
        return None
    found = json.loads(stored.read_text())
    inner: str | None = found.get(key, found).get("model_type")
    return inner
