"""Encoders, connectors and a language model: it reads images and answers in text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from medvlm.compositions._composed import encoders_reason, load_tokenizer, make_data_path, serve
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.data.dialogue import Dialogue
from medvlm.models.vlm import VLM, build_vlm

CAN = frozenset({"answer"})
PARTS = ("encoders", "connectors", "language", "lora")
TAKES_ANY_SIZE = False
serves = serve


class Config(CompositionConfig):
    kind: Literal["vlm"]


def reason(model: Any) -> str | None:
    """It needs a language model beside the encoders."""
    if why := encoders_reason(model):
        return why
    if model.language is None:
        return "model.language is missing; add it, e.g. {kind: causal, model: Qwen/Qwen3-4B-Instruct-2507}"
    return None


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    tokenizer = load_tokenizer(recipe, folder, train)
    path = make_data_path(recipe.model, Dialogue(tokenizer, tokenizer.image_token))
    return Assembly(recipe.model, recipe.seed, tokenizer, path)


def build(assembly: Assembly, stage: Any, weights: bool = True) -> VLM:
    model, tokenizer = assembly.model, assembly.tokenizer
    return build_vlm(model.encoders, model.language, tokenizer, tokenizer.image_token, assembly.seed)
