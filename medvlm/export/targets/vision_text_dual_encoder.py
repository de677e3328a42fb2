"""A trained dual encoder as a stock VisionTextDualEncoderModel folder, which transformers loads without our code.

The class takes any vision and text tower of transformers whose output has a pooled vector, with one linear head without
bias for each. It has a learned scale but no bias, so scores of a model trained with the sigmoid loss differ by a
constant, which does not change any ranking. The audit contains its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.export.audit import Audit
from medvlm.export.dual import LOADING_PAIRS, PLACES, check_pooling, copy_tower_configs, write_stock
from medvlm.export.fits import TRANSFORMERS, check_one_tower, find_model_type, library_of, text_of
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.towers import DualEncoder

LIBRARY, LOADER = "transformers", "stock"
HOLDS = Holds(DualEncoder, order=3)
LOADING = LOADING_PAIRS


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs one vision and one text tower of transformers."""
    if why := check_one_tower(model):
        return why
    text = text_of(stages)
    if text is not None and library_of("texts", text) != TRANSFORMERS:
        return f"the text tower is of kind {text.kind}, and the stock class needs a tower of transformers"
    if text is not None and find_model_type(text, "text_config") == "siglip_text_model":
        return "the text tower is a siglip_text_model, which transformers can load only as part of SigLIP"
    return None


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_embeddings(trained.drop_windows(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    check_pooling(trained.model)
    from transformers import (
        CLIPImageProcessor,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        VisionTextDualEncoderProcessor,
    )

    config = VisionTextDualEncoderConfig(**copy_tower_configs(trained.model), projection_dim=trained.model.width)
    return write_stock(
        VisionTextDualEncoderModel,
        config,
        PLACES,
        trained,
        folder,
        CLIPImageProcessor,
        VisionTextDualEncoderProcessor,
        trained.tokenizer,
    )
