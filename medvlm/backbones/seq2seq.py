"""An encoder and a decoder of transformers, such as T5: the encoder reads the question with its images, and the decoder
writes the answer. From a hub id, from a folder, or from a config, which starts from scratch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from medvlm.backbones import _language
from medvlm.backbones._language import WIDTHS, LanguageConfig, find_first, read_config

HAS_ENCODER = True
TEMPLATE = "encoded"
"""The chat template of a tokenizer without one. Those of T5 have none."""
new_tokens, standalone = _language.new_tokens, _language.make_standalone


class Config(LanguageConfig):
    TYPES: ClassVar[str] = "t5, mt5, umt5"
    kind: Literal["seq2seq"]


def facts(config: Config) -> int | None:
    """Width of the token embeddings, or None if it can't be read without transformers."""
    return find_first(read_config(config), WIDTHS)


def tokenizer(config: Config, train: Callable[[int], Any], folder: Path) -> Any:
    """See make_tokenizer."""
    return _language.make_tokenizer(config, train, folder, TEMPLATE)


def build(config: Config, tokenizer: Any) -> nn.Module:
    """Loads or initialises the model. Rows for new tokens are added at the end of the embedding table."""
    from transformers import AutoModelForSeq2SeqLM

    # The decoder of T5 starts with the padding token.
    ids = {"decoder_start_token_id": tokenizer.pad_token_id}
    model: nn.Module = _language.build_language(AutoModelForSeq2SeqLM, config, tokenizer, ids)
    return model
