"""A trained dual encoder as a stock VisionTextDualEncoderModel folder, which transformers loads without our code.

That class holds any vision and any text tower of transformers whose output has a pooled vector, and one linear head
without bias for each. It has a learned scale and no bias: scores of a model trained with the sigmoid loss differ
from ours by that constant, which leaves every ranking as it is; the audit says its value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from medvlm.core.contracts import Preprocess
from medvlm.core.errors import ShapeError
from medvlm.data.transforms import processor_settings
from medvlm.export.audit import Audit, account, named
from medvlm.export.parity import proof_pixels, save_reference
from medvlm.models.lora import merge
from medvlm.models.parts import evaluating
from medvlm.models.towers import DualEncoder

TEXTS = ("A nodule in the left upper zone.", "No finding.", "Three opacities, the largest of 12 mm.")


def to_dual(model: DualEncoder, tokenizer: Any, preprocess: Preprocess, folder: Path, is_trained: Callable[[str], bool] = lambda name: False) -> Audit:
    """Writes the folder and says where each tensor went. tokenizer: the text tower's. Adapters are folded in for good.

    Raises ShapeError for a model that the class does not hold.
    """
    _check_pooling(model)
    from transformers import CLIPImageProcessor, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, VisionTextDualEncoderProcessor

    ((name, encoder),) = model.encoders.items()
    adapters = [n for n, _ in model.named_parameters() if ".lora_" in n]
    merge(model)
    vision, text = copy.deepcopy(encoder.tower.config), copy.deepcopy(model.text.tower.config)
    vision.architectures, text.architectures = [type(encoder.tower).__name__], [type(model.text.tower).__name__]
    width = model.heads["text"].out_features
    config = VisionTextDualEncoderConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=width)
    with torch.device("meta"):
        stock = VisionTextDualEncoderModel(config)
    scale = model.heads["scale"]
    source = {
        **named(f"encoders.{name}.tower", encoder.tower),
        **named("text.tower", model.text.tower),
        **{f"heads.{n}.weight": model.heads[n].weight.detach() for n in (name, "text")},
        "heads.scale.log_scale": scale.log_scale.detach(),
    }
    placed, audit = account(source, _places(name), stock.state_dict(), adapters, is_trained)
    if scale.bias is not None:
        audit.left_out["heads.scale.bias"] = f"{scale.bias.item():.6g} is added to every score by the sigmoid loss; the stock class has no bias"
    stock.load_state_dict(placed, strict=True, assign=True)
    stock.config.dtype = scale.log_scale.dtype
    stock.save_pretrained(folder)
    images = CLIPImageProcessor(**processor_settings(preprocess))
    VisionTextDualEncoderProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    images.save_pretrained(folder)
    return audit


def write_reference(model: DualEncoder, tokenizer: Any, preprocess: Mapping[str, Preprocess], folder: Path) -> None:
    """Unit embeddings of the proof's media and texts by this package's own data path and model; float32, on the CPU."""
    pixels, pictures = proof_pixels(preprocess, folder)
    read = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with evaluating(model):
        tensors = {
            "images": torch.cat([model.embed_media({name: p[None]}) for (name, _), p in pixels.items()]),
            "texts": model.embed_texts(read["input_ids"], read["attention_mask"]),
            "scale": model.heads["scale"].log_scale.detach().exp(),
        }
    ids = [row[mask.bool()].tolist() for row, mask in zip(read["input_ids"], read["attention_mask"], strict=True)]
    save_reference(folder, {"kind": "embeddings", "images": list(pictures.values()), "texts": list(TEXTS), "ids": ids}, tensors)


def _check_pooling(model: DualEncoder) -> None:
    """Raises ShapeError for a tower without a pooled output: ours takes the mean of the patches, the stock class cannot."""
    ((name, encoder),) = model.encoders.items()
    with evaluating(model):
        if encoder.tower(pixel_values=torch.zeros(1, *encoder.input_shape)).pooler_output is None:
            raise ShapeError(f"export: encoders.{name} has no pooled output, which the stock class needs; set export.target: custom")


def _places(encoder: str) -> Callable[[str], str | None]:
    moves = {
        f"encoders.{encoder}.tower.": "vision_model.",
        "text.tower.": "text_model.",
        f"heads.{encoder}.weight": "visual_projection.weight",
        "heads.text.weight": "text_projection.weight",
        "heads.scale.log_scale": "logit_scale",
    }

    def place_of(name: str) -> str | None:
        return next((new + name[len(old) :] for old, new in moves.items() if name.startswith(old)), None)

    return place_of
