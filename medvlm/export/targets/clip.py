"""A trained dual encoder of CLIP's own two towers as a stock CLIPModel folder: what most tools for CLIP take.

A bias of the sigmoid loss has no place in it; the audit says its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.export.audit import Audit
from medvlm.export.dual import LOADING_PAIRS, PLACES, tower_configs, written
from medvlm.export.fits import two_towers
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.towers import DualEncoder

LIBRARY, LOADER = "transformers", "stock"
HOLDS = Holds(DualEncoder, order=2, servers=("vllm",), tags=("clip",))
LOADING = LOADING_PAIRS


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """CLIP's vision tower and CLIP's text tower."""
    return two_towers(model, stages, "CLIP", "clip_vision_model", "clip_text_model")


def reference(trained: Trained, folder: Path) -> None:
    references.embeddings(trained.for_stock(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are folded into the model for good."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    config = CLIPConfig(**tower_configs(trained.model), projection_dim=trained.model.width)
    return written(CLIPModel, config, PLACES, trained, folder, CLIPImageProcessor, CLIPProcessor, trained.tokenizer)
