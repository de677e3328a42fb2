"""What the stock dual encoders of transformers share: two towers, two linear heads or none, and a learned scale."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medvlm.core.errors import ShapeError
from medvlm.data.transforms import make_processor_settings
from medvlm.export.audit import Audit, account, list_tensors
from medvlm.export.trained import Trained
from medvlm.models.lora import merge
from medvlm.models.parts import evaluating
from medvlm.models.towers import DualEncoder
from medvlm.recipe.targets import REMEDY

LOADING_PAIRS = """\
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


def copy_tower_configs(model: DualEncoder) -> dict[str, Any]:
    """vision_config and text_config for a stock class, as plain data."""
    ((_, encoder),) = model.encoders.items()
    made = {}
    for key, tower in (("vision_config", encoder.tower), ("text_config", model.text.tower)):
        config = copy.deepcopy(tower.config)
        config.architectures = [type(tower).__name__]
        made[key] = config.to_dict()
    return made


def write_stock(
    stock_class: Any,
    config: Any,
    places: Mapping[str, str],
    trained: Trained,
    folder: Path,
    images_class: Any,
    processor_class: Any,
    tokenizer: Any,
) -> Audit:
    """Writes the stock model with the trained tensors, and its processor, into a folder. places: see fill_stock."""
    (preprocess,) = trained.preprocess.values()
    with torch.device("meta"):
        stock = stock_class(config)
    audit = fill_stock(stock, trained, places)
    stock.config.dtype = torch.float32
    stock.save_pretrained(folder)
    images = images_class(**make_processor_settings(preprocess))
    processor_class(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    images.save_pretrained(folder)
    return audit


def fill_stock(stock: Any, trained: Trained, places: Mapping[str, str]) -> Audit:
    """Loads the trained tensors into a stock model on the meta device, with adapters folded in. Returns the audit.

    places: prefix of a name -> its prefix in the stock class, where FILM means the encoder's name. If the stock class
    has a linear head and the model does not, the head becomes the identity. Raises ShapeError if the model does not fit
    the class."""
    model: DualEncoder = trained.model
    ((name, encoder),) = model.encoders.items()
    adapters = [n for n, _ in model.named_parameters() if ".lora_" in n]
    merge(model)
    scale = model.heads["scale"]
    source = {
        **list_tensors(f"encoders.{name}.tower", encoder.tower),
        **list_tensors("text.tower", model.text.tower),
        "heads.scale.log_scale": scale.log_scale.detach(),
    }
    moves = {old.replace("FILM", name): new for old, new in places.items()}
    for head in (name, "text"):
        place = f"heads.{head}.weight"
        if hasattr(model.heads[head], "weight"):
            source[place] = model.heads[head].weight.detach()
        elif place in moves:
            source[place] = torch.eye(model.text.width)
    left_out = {}
    if scale.bias is not None and "heads.scale.bias" in moves:
        source["heads.scale.bias"] = scale.bias.detach()
    elif scale.bias is not None:
        left_out["heads.scale.bias"] = (
            f"{scale.bias.item():.6g} is added to every score by the sigmoid loss; the stock class has no bias"
        )
    wanted = stock.state_dict()
    shaped = {n: t.reshape(wanted[moves[n]].shape) if n.startswith("heads.scale.") else t for n, t in source.items()}

    def place_of(full: str) -> str | None:
        return next((new + full[len(old) :] for old, new in moves.items() if full.startswith(old)), None)

    placed, audit = account(shaped, place_of, wanted, adapters, trained.is_trained)
    audit.left_out.update(left_out)
    stock.load_state_dict(placed, strict=True, assign=True)
    return audit


def check_pooling(model: DualEncoder) -> None:
    """Raises ShapeError for a tower without a pooled output. medvlm then averages the patches; the stock class
    cannot."""
    ((name, encoder),) = model.encoders.items()
    with evaluating(model):
        if encoder.tower(pixel_values=torch.zeros(1, *encoder.input_shape)).pooler_output is None:
            raise ShapeError(f"export: encoders.{name} has no pooled output, which the stock class needs; {REMEDY}")
