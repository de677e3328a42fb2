"""One network of timm as a folder that timm.create_model loads, its preprocessing beside it in timm's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.export.audit import Audit
from medvlm.export.fits import behind_stock, encoder_of, library_of
from medvlm.export.part import tower_audit
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
    """An encoder of kind timm behind a stock image processor."""
    name, encoder, why = encoder_of(model, part)
    if why:
        return why
    if library_of("encoders", encoder) != LIBRARY:
        return f"encoders.{name} is of kind {encoder.kind}, no network of timm"
    if encoder.preprocess.fit == "crop" and len(set(encoder.preprocess.size)) > 1:
        return f"encoders.{name}.preprocess crops to {list(encoder.preprocess.size)}, and timm crops to squares"
    return behind_stock(name, encoder)


def reference(trained: Trained, folder: Path) -> None:
    references.features(trained.for_stock(), folder, computed)


def computed(encoder: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Adapters are still on the tower."""
    return {"hidden": encoder.tower.forward_features(pixels)}


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are folded into the model for good."""
    from timm.models import save_for_hf

    audit = tower_audit(trained, "tower")
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
