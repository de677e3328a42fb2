"""A trained dual encoder with SigLIP's own two towers as a stock SiglipModel folder, with its scale and bias.

The class has no linear heads, so the model must be trained without them (`width: null`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.export.audit import Audit
from medvlm.export.dual import copy_tower_configs, write_stock
from medvlm.export.fits import check_two_towers, find_pairing_stage
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.towers import DualEncoder

LIBRARY, LOADER = "transformers", "stock"
HOLDS = Holds(DualEncoder, order=1, servers=("vllm",), tags=("siglip",))
LOADING = """\
```python
from PIL import Image
from transformers import AutoModel, AutoProcessor
processor, model = AutoProcessor.from_pretrained("FOLDER"), AutoModel.from_pretrained("FOLDER")
texts = ["a nodule in the left lung", "no finding"]
inputs = processor(images=Image.open("IMAGE"), text=texts, padding="max_length", return_tensors="pt")
print(dict(zip(texts, model(**inputs).logits_per_image.sigmoid()[0].tolist())))
```"""
PLACES = {
    "encoders.FILM.tower.": "vision_model.",
    "text.tower.": "text_model.",
    "heads.scale.log_scale": "logit_scale",
    "heads.scale.bias": "logit_bias",
}


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs SigLIP's vision and text tower, no heads, and the sigmoid loss, because the class has its bias."""
    if why := check_two_towers(model, stages, "SigLIP", "siglip_vision_model", "siglip_text_model"):
        return why
    stage = find_pairing_stage(stages)
    if stage is not None and stage.width is not None:
        return f"stages.{stage.name}.width is {stage.width}, and SigLIP has no linear heads: set it to null"
    if stage is not None and stage.loss.kind != "siglip":
        return (
            f"stages.{stage.name}.loss is of kind {stage.loss.kind}, which has no bias, and SigLIP needs one: use"
            " siglip"
        )
    return None


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_embeddings(trained.drop_windows(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    configs = copy_tower_configs(trained.model)
    tokenizer = copy.deepcopy(trained.tokenizer)
    # `padding="max_length"` pads to the tokenizer's model_max_length, and SigLIP takes no attention mask.
    # save_pretrained writes init_kwargs, not the current attributes.
    tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = configs["text_config"][
        "max_position_embeddings"
    ]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    return write_stock(
        SiglipModel, SiglipConfig(**configs), PLACES, trained, folder, SiglipImageProcessor, SiglipProcessor, tokenizer
    )
