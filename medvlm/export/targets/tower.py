"""One vision tower of transformers as a folder that AutoModel and AutoImageProcessor load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.data.transforms import make_processor_settings
from medvlm.export.audit import Audit
from medvlm.export.fits import check_preprocessing, choose_encoder, library_of
from medvlm.export.part import merge_and_audit
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained

LIBRARY, LOADER = "transformers", "vision_tower"
HOLDS = Holds(nn.Module, order=1, is_part=True)
LOADING = """\
```python
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
processor, model = AutoImageProcessor.from_pretrained("FOLDER"), AutoModel.from_pretrained("FOLDER")
out = model(**processor(images=Image.open("IMAGE"), return_tensors="pt"))
print(out.last_hidden_state.shape)
```"""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs an encoder of kind transformers with stock preprocessing."""
    name, encoder, why = choose_encoder(model, part)
    if why:
        return why
    return (
        f"encoders.{name} is of kind {encoder.kind}, not a tower of transformers"
        if library_of("encoders", encoder) != LIBRARY
        else check_preprocessing(name, encoder)
    )


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_features(trained.drop_windows(), folder, compute)


def compute(encoder: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The features of a batch. The tower still has its adapters."""
    out = encoder.tower(pixel_values=pixels)
    pooled = {} if out.get("pooler_output") is None else {"pooled": out.pooler_output}
    return {"hidden": out.last_hidden_state, **pooled}


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    from transformers import CLIPImageProcessor

    audit = merge_and_audit(trained, "tower")
    name = trained.encoder
    tower: Any = trained.model.encoders[name].tower
    tower.config.architectures, tower.config.dtype = [type(tower).__name__], torch.float32
    tower.save_pretrained(folder)
    CLIPImageProcessor(**make_processor_settings(trained.preprocess[name])).save_pretrained(folder)
    return audit
