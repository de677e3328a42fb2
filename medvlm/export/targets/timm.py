"""One timm network as a folder that timm.create_model loads, with its preprocessing in timm's config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.export.audit import Audit
from medvlm.export.fits import check_preprocessing, choose_encoder, library_of
from medvlm.export.part import merge_and_audit
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained

LIBRARY, LOADER = "timm", "timm_tower"
HOLDS = Holds(nn.Module, order=2, is_part=True)
LOADING = """\
```python
import timm
from PIL import Image
model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
print(model.forward_features(transform(Image.open("IMAGE").convert("RGB"))[None]).shape)
```"""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs an encoder of kind timm with stock preprocessing."""
    name, encoder, why = choose_encoder(model, part)
    if why:
        return why
    if library_of("encoders", encoder) != LIBRARY:
        return f"encoders.{name} is of kind {encoder.kind}, not a timm network"
    if encoder.preprocess.fit == "crop" and len(set(encoder.preprocess.size)) > 1:
        return f"encoders.{name}.preprocess crops to {list(encoder.preprocess.size)}, and timm crops to squares"
    return check_preprocessing(name, encoder)


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_features(trained.drop_windows(), folder, compute)


def compute(encoder: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The features of a batch. The tower still has its adapters."""
    return {"hidden": encoder.tower.forward_features(pixels)}


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    from timm.models import save_for_hf

    audit = merge_and_audit(trained, "tower")
    name = trained.encoder
    before = trained.preprocess[name]
    seen = {
        "input_size": (before.channels, *before.size),
        "mean": before.mean,
        "std": before.std,
        "interpolation": "bicubic",
    }
    tower = trained.model.encoders[name].tower
    save_for_hf(
        tower,
        str(folder),
        safe_serialization=True,
        data_config={**seen, "crop_pct": 1.0, "crop_mode": "squash" if before.fit == "squash" else "center"},
    )
    return audit
