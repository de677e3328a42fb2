"""Encoders and a text tower that map images and texts to one space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from medvlm.compositions._composed import encoders_reason, load_tokenizer, make_data_path, serve
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.config import component
from medvlm.models.towers import DualEncoder, build_dual

CAN = frozenset({"embed"})
PARTS = ("encoders", "text", "heads")
TAKES_ANY_SIZE = False
serves = serve
reason = encoders_reason


class Config(CompositionConfig):
    kind: Literal["dual"]


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    tokenizer = load_tokenizer(recipe, folder, train)
    return Assembly(recipe.model, recipe.seed, tokenizer, make_data_path(recipe.model, None))


def build(assembly: Assembly, stage: Any, weights: bool = True) -> DualEncoder:
    """stage: has `text`, the text tower, `width` of the shared space, and `loss`, which says where the scale starts."""
    log_scale, bias = component("objectives.pairs", stage.loss.kind).start(stage.loss)
    tokenizer = text_tokenizer(assembly, stage)
    encoders = assembly.model.encoders
    return build_dual(encoders, stage.text, tokenizer, stage.width, log_scale, bias, assembly.seed)


def text_tokenizer(assembly: Assembly, stage: Any) -> Any:
    """What the text tower of a stage reads its texts with."""
    return component("texts", stage.text.kind).tokenizer(stage.text, assembly.tokenizer)
