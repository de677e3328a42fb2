"""A trained dual encoder as a stock VisionTextDualEncoderModel folder, which transformers loads without our code.

That class holds any vision and any text tower of transformers whose output has a pooled vector, and one linear head
without bias for each. It has a learned scale and no bias: scores of a model trained with the sigmoid loss differ
from ours by that constant, which leaves every ranking as it is; the audit says its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.export.audit import Audit
from medvlm.export.dual import LOADING_PAIRS, PLACES, check_pooling, tower_configs, written
from medvlm.export.fits import TRANSFORMERS, library_of, model_type, one_tower, text_of
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.towers import DualEncoder

LIBRARY, LOADER = "transformers", "stock"
HOLDS = Holds(DualEncoder, order=3)
LOADING = LOADING_PAIRS


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """One vision and one text tower of transformers."""
    if why := one_tower(model):
        return why
    text = text_of(stages)
    if text is not None and library_of("texts", text) != TRANSFORMERS:
        return f"the text tower is of kind {text.kind}, and the stock class holds a tower of transformers"
    if text is not None and model_type(text, "text_config") == "siglip_text_model":
        return "the text tower is a siglip_text_model, which transformers loads within SigLIP alone"
    return None


def reference(trained: Trained, folder: Path) -> None:
    references.embeddings(trained.for_stock(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are folded into the model for good."""
    check_pooling(trained.model)
    from transformers import (
        CLIPImageProcessor,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        VisionTextDualEncoderProcessor,
    )

    config = VisionTextDualEncoderConfig(**tower_configs(trained.model), projection_dim=trained.model.width)
    return written(
        VisionTextDualEncoderModel,
        config,
        PLACES,
        trained,
        folder,
        CLIPImageProcessor,
        VisionTextDualEncoderProcessor,
        trained.tokenizer,
    )
