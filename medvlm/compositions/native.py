"""A ready vision-language model, computed by the classes of its own family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from medvlm.compositions._opened import AnsweringModel
from medvlm.compositions._outside import OWN
from medvlm.core.ask import Files
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.config import kinds
from medvlm.core.errors import RecipeError
from medvlm.core.families import IMAGE
from medvlm.core.sample import Sample
from medvlm.core.weights import is_on_meta, open_stock
from medvlm.data.native import make_native_prepare
from medvlm.data.processor import Processor
from medvlm.data.views import Views
from medvlm.models.native import NativeVLM
from medvlm.models.ready import build_native
from medvlm.tasks._writing import Writing

CAN = frozenset({"answer", "draw", "weigh"})
PARTS = ("encoders", "connectors", "language", "lora")
TAKES_ANY_SIZE = True
MODEL = NativeVLM
NOUN, HUB_TASK = "a ready vision-language model", "image-text-to-text"
SUMMARY = "A vision-language model that reads images and answers in text"
Manifest = None
BOX_SCALE = 1000
"""The scale of boxes that a published model writes in thousandths."""


class Config(CompositionConfig):
    kind: Literal["native"]


def reason(model: Any) -> str | None:
    return None if model.pretrained else "no ready model is named in model.pretrained"


def serves(model: Any) -> Mapping[str, tuple[str, ...] | None]:
    return {IMAGE: None}


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    """Saves the processor and the config of the model in `folder`, so that the run can be opened without the original
    files."""
    model = recipe.model
    processor = Processor.of_run(model.pretrained, model.processor, folder, model.template, model.system)
    path = make_native_prepare(processor, model.views, model.boxes.codec, model.boxes.scale)
    return Assembly(model, recipe.seed, processor.tokenizer, path)


def build(assembly: Assembly, stage: Any, weights: bool = True) -> NativeVLM:
    with torch.device("cpu"):
        blank = assembly.prepare.processor.blank()
    # Weights in 4 bits are those of the published files, so they are read even if a checkpoint follows.
    weights, quantize = weights or assembly.model.quantize is not None, assembly.model.quantize
    source = assembly.model.pretrained if weights else assembly.prepare.processor.folder
    barred = assembly.prepare.processor.barred_ids
    return build_native(
        source, blank, assembly.seed, weights and not is_on_meta(), quantize=quantize, barred_ids=barred
    )


class ReadyModel(AnsweringModel):
    def embed_each(self, sample: Sample, files: Files) -> Iterator[torch.Tensor]:
        raise RecipeError(
            "this is a ready model, whose image tokens depend on the whole prompt; embed takes dual encoders and"
            " composed models"
        )


def open(assembly: Assembly, stage: Any, model: NativeVLM) -> ReadyModel:
    return ReadyModel(CAN, model, assembly.prepare, assembly.tokenizer)


def open_published(where: str, device: str) -> ReadyModel | None:
    """Opens a folder or hub id if its config is of a known family, in the stored precision; else None."""
    return _open_known(where, device, Processor(where), {}, Writing("", BOX_SCALE)) if _is_known(where) else None


def open_as_is(model: Any, device: str) -> ReadyModel | None:
    """The same, with the processor, views and boxes of a recipe. model: its section `model`."""
    if not _is_known(model.pretrained):
        return None
    processor = Processor(model.pretrained, model.processor, model.template, model.system)
    return _open_known(model.pretrained, device, processor, model.views, Writing(model.boxes.codec, model.boxes.scale))


def _is_known(where: str) -> bool:
    from transformers import AutoConfig

    try:
        return open_stock(AutoConfig, where).model_type in kinds("families")
    except (OSError, ValueError):
        return False


def _open_known(
    where: str, device: str, processor: Processor, views: Mapping[str, Views], boxes: Writing
) -> ReadyModel:
    path = replace(make_native_prepare(processor, views, boxes.codec, boxes.scale), beyond_8_bits=OWN)
    model = build_native(where, processor.blank(), 0, dtype="auto", barred_ids=processor.barred_ids).to(device)
    return ReadyModel(CAN, model.eval(), path, processor.tokenizer)
