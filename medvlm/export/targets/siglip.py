"""A trained dual encoder of SigLIP's own two towers as a stock SiglipModel folder, with its scale and its bias.

The class has no linear heads of its own: its towers are trained without (`width: null`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm.export.audit import Audit
from medvlm.export.dual import tower_configs, written
from medvlm.export.fits import pairing, two_towers
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
    """SigLIP's vision tower, SigLIP's text tower, no heads, and the sigmoid loss, whose bias the class has."""
    if why := two_towers(model, stages, "SigLIP", "siglip_vision_model", "siglip_text_model"):
        return why
    stage = pairing(stages)
    if stage is not None and stage.width is not None:
        return f"stages.{stage.name}.width is {stage.width}, and SigLIP has no linear heads: set it to null"
    if stage is not None and stage.loss.kind != "siglip":
        return (
            f"stages.{stage.name}.loss is of kind {stage.loss.kind}, which learns no bias, and SigLIP has one: use"
            " siglip"
        )
    return None


def reference(trained: Trained, folder: Path) -> None:
    references.embeddings(trained.for_stock(), folder)


def write(trained: Trained, folder: Path) -> Audit:
    """Adapters are folded into the model for good."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    configs = tower_configs(trained.model)
    tokenizer = copy.deepcopy(trained.tokenizer)
    # `padding="max_length"` fills up to what the tokenizer says, and SigLIP takes no mask; what is saved are the
    # arguments it was made with.
    tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = configs["text_config"][
        "max_position_embeddings"
    ]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    return written(
        SiglipModel, SiglipConfig(**configs), PLACES, trained, folder, SiglipImageProcessor, SiglipProcessor, tokenizer
    )
