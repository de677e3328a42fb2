"""A trained dual encoder of CLIP's own two towers as a stock CLIPModel folder: what most tools for CLIP take.

A bias of the sigmoid loss has no place in it; the audit says its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.export.audit import Audit
from medvlm.export.dual import tower_configs, written
from medvlm.export.fits import two_towers
from medvlm.export.proof import reference as references
from medvlm.export.targets.vision_text_dual_encoder import LOADING, PLACES
from medvlm.export.trained import Trained

MAKES, LIBRARY, LOADER = ("dual",), "transformers", "transformers"
__all__ = ["LIBRARY", "LOADER", "LOADING", "MAKES", "reason", "reference", "write"]


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
