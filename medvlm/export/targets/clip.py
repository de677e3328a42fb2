"""A trained dual encoder with CLIP's own two towers as a stock CLIPModel folder, which most tools for CLIP load.

The class has no place for a bias of the sigmoid loss; the audit contains its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.export.audit import Audit
from medvlm.export.dual import LOADING_PAIRS, PLACES, copy_tower_configs, write_stock
from medvlm.export.fits import check_two_towers
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.towers import DualEncoder

LIBRARY, LOADER = "transformers", "stock"
HOLDS = Holds(DualEncoder, order=2, servers=("vllm",), tags=("clip",))
LOADING = LOADING_PAIRS


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs CLIP's vision tower and CLIP's text tower."""
    return check_two_towers(model, stages, "CLIP", "clip_vision_model", "clip_text_model")


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_embeddings(trained.drop_windows(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    config = CLIPConfig(**copy_tower_configs(trained.model), projection_dim=trained.model.width)
    return write_stock(CLIPModel, config, PLACES, trained, folder, CLIPImageProcessor, CLIPProcessor, trained.tokenizer)
