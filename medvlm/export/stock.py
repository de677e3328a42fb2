"""Why a composition has no stock class of transformers, or None: asked when a recipe is validated and again at export.

LlavaForConditionalGeneration holds one CLIP or SigLIP tower, linear - GELU - linear, and a causal language model;
VisionTextDualEncoderModel one vision and one text tower with a linear head each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.data.transforms import not_stock

TOWERS = {
    # tower's model_type -> (vision_feature_select_strategy, tokens beside the patches): CLIP has a class token, which
    # "default" drops; SigLIP has none, and "default" would drop the first patch instead.
    "clip_vision_model": ("default", 1),
    "siglip_vision_model": ("full", 0),
}
REMEDY = "set export.target: custom"


def stock_reason(model: Any, stages: Sequence[Any] = ()) -> str | None:
    """Why no stock class holds this, or None when one does.

    model: the recipe's `model` (encoders, language). stages: the recipe's; without a language model, the text tower
    of the last stage that has one is the other half. A tower that is only known by a hub id that is not here is
    taken to fit; the export looks at the built one. A preprocess.window fits: it is applied before the stock
    processor, and the model card says how.
    """
    if len(model.encoders) != 1:
        return f"it has {len(model.encoders)} encoders ({', '.join(model.encoders)}), and the stock class holds one"
    ((name, encoder),) = model.encoders.items()
    if encoder.kind != "transformers":
        return f"encoders.{name} is of kind {encoder.kind}, and the stock class holds a tower of transformers"
    if encoder.preprocess is not None and (reason := not_stock(encoder.preprocess)):
        return f"encoders.{name}.preprocess.{reason}"
    if encoder.preprocess is not None and encoder.preprocess.channels != 3:
        return f"encoders.{name}.preprocess.channels is {encoder.preprocess.channels}, and the stock image processor makes 3 of every image"
    return _dual_reason(stages) if model.language is None else _llava_reason(name, encoder)


def _llava_reason(name: str, encoder: Any) -> str | None:
    if encoder.connector.kind != "mlp":
        return f"encoders.{name}.connector is of kind {encoder.connector.kind}, and the stock class holds `mlp`"
    known = _model_type(encoder)
    if known and known not in TOWERS:
        return f"encoders.{name} is a {known}, and the stock class is used with {' or '.join(TOWERS)}"
    return None


def _dual_reason(stages: Sequence[Any]) -> str | None:
    text = next((stage.text for stage in reversed(stages) if getattr(stage, "text", None)), None)
    if text is not None and text.kind != "transformers":
        return f"the text tower is of kind {text.kind}, and the stock class holds a tower of transformers"
    return None


def _model_type(encoder: Any) -> str | None:
    if encoder.config:
        kind: str = encoder.config["model_type"]
        return kind
    stored = Path(encoder.model) / "config.json"
    if not stored.is_file():
        return None
    found = json.loads(stored.read_text())
    inner: str | None = found.get("vision_config", found).get("model_type")
    return inner
