"""A ready vision-language model, computed by its family's own classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.weights import on_meta
from medvlm.data.native import Processor, make_native_prepare
from medvlm.models.native import IMAGE, NativeVLM, build_native

CAN = frozenset({"answer"})
PARTS = ("encoders", "connectors", "language", "lora")
TAKES_ANY_SIZE = True


class Config(CompositionConfig):
    kind: Literal["native"]


def reason(model: Any) -> str | None:
    return None if model.pretrained else "no ready model is named in model.pretrained"


def serves(model: Any) -> Mapping[str, tuple[str, ...] | None]:
    return {IMAGE: None}


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    """The processor is kept in the folder with the config of the model, so that the run can be opened without the
    model's own files."""
    model = recipe.model
    processor = Processor.of_run(model.pretrained, model.processor, folder)
    path = make_native_prepare(processor, model.views, model.boxes.codec, model.boxes.scale)
    return Assembly(model, recipe.seed, processor.tokenizer, path)


def build(assembly: Assembly, stage: Any, weights: bool = True) -> NativeVLM:
    with torch.device("cpu"):
        blank = assembly.prepare.processor.blank()
    source = assembly.model.pretrained if weights else assembly.prepare.processor.folder
    return build_native(source, blank, assembly.seed, weights=weights and not on_meta())
