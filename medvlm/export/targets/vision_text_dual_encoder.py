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
from medvlm.export.dual import check_pooling, tower_configs, written
from medvlm.export.fits import model_type, one_tower, text_of
from medvlm.export.proof import reference as references
from medvlm.export.trained import Trained

MAKES, LIBRARY, LOADER = ("dual",), "transformers", "transformers"
LOADING = """\
```python
from PIL import Image
from transformers import AutoModel, AutoProcessor
processor, model = AutoProcessor.from_pretrained("FOLDER"), AutoModel.from_pretrained("FOLDER")
texts = ["a nodule in the left lung", "no finding"]
inputs = processor(images=Image.open("IMAGE"), text=texts, padding=True, return_tensors="pt")
print(dict(zip(texts, model(**inputs).logits_per_image.softmax(-1)[0].tolist())))
```"""
PLACES = {
    "encoders.FILM.tower.": "vision_model.",
    "text.tower.": "text_model.",
    "heads.FILM.weight": "visual_projection.weight",
    "heads.text.weight": "text_projection.weight",
    "heads.scale.log_scale": "logit_scale",
}


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """One vision and one text tower of transformers."""
    if why := one_tower(model):
        return why
    text = text_of(stages)
    if text is not None and text.kind != "transformers":
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
