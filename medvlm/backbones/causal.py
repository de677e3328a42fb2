"""Any causal language model of transformers: from a hub id, from a folder, or from a config, which starts from
scratch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import nn

from medvlm.backbones import _language
from medvlm.backbones._language import WIDTHS, LanguageConfig, find_first, read_config
from medvlm.core.contracts import Quantize
from medvlm.core.errors import ShapeError
from medvlm.core.quantize import quantization_args, quantize_on_meta, settle
from medvlm.core.weights import is_on_meta

HAS_ENCODER = False
new_tokens = _language.new_tokens


class Config(LanguageConfig):
    TYPES: ClassVar[str] = "qwen2, llama, gpt2"
    kind: Literal["causal"]
    quantize: Quantize | None = None
    """Loads the model in 4 bits (QLoRA, arXiv 2305.14314): a quarter of the memory of 16 bits, for stages that train
    adapters only. Exports hold the dequantized weights that were computed with. Needs `pip install
    'medvlm[quantized]'`."""

    @model_validator(mode="after")
    def _quantizes_weights(self) -> Config:
        if self.quantize and not self.model:
            raise ValueError(
                "quantize needs `model`: a model that starts from scratch is trained in full; remove quantize"
            )
        return self


def facts(config: Config) -> int | None:
    """Width of the token embeddings, or None if it can't be read without transformers. Raises ShapeError for heads that
    do not divide it."""
    known = read_config(config)
    width, heads, groups = (find_first(known, names) for names in (WIDTHS, *HEADS_AND_GROUPS))
    if width and heads and width % heads and not known.get("head_dim"):
        raise ShapeError(f"model.language: {heads} heads do not divide the width of {width}; change one of them")
    if heads and groups and heads % groups:
        raise ShapeError(
            f"model.language: {groups} key and value heads do not divide the {heads} heads; change one of them"
        )
    return width


HEADS_AND_GROUPS = (("num_attention_heads", "n_head", "num_heads"), ("num_key_value_heads",))
"""The names that model families use for heads, and for key and value heads."""


def tokenizer(config: Config, train: Callable[[int], Any], folder: Path) -> Any:
    """See make_tokenizer."""
    return _language.make_tokenizer(config, train, folder)


def build(config: Config, tokenizer: Any) -> nn.Module:
    """Loads or initialises the model. Rows for new tokens are added at the end of the embedding table."""
    from transformers import AutoModelForCausalLM

    is_read = bool(config.quantize) and not is_on_meta()
    options = quantization_args("model.language.quantize") if is_read else {}
    model: Any = _language.build_language(AutoModelForCausalLM, config, tokenizer, **options)
    if config.quantize and is_on_meta():
        quantize_on_meta(model, [model.get_output_embeddings()])
    settle(model)
    return model  # type: ignore[no-any-return]


def standalone(config: Config, built: Any) -> Any:
    """A config that builds the same without an id or a path."""
    made = _language.make_standalone(config, built)
    return made.model_copy(update={"quantize": None}) if config.model else made
