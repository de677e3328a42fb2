"""What language models of transformers share, whichever Auto class builds them: settings, tokenizer, weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from medvlm.core import deferred
from medvlm.core.arguments import refuse_values
from medvlm.core.chat_templates import CONTENT, TEMPLATES, flatten_parts, refuse_template, try_template
from medvlm.core.contracts import Loaded
from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.weights import (
    describe,
    from_pretrained,
    open_dialogue_tokenizer,
    open_saved_tokenizer,
    open_tokenizer,
)

IMAGE = "<image>"
"""The image token of a tokenizer without a reserved one; it is added as a new token."""
RESERVED = (
    r"<image>",
    r"<\|image_pad\|>",
    r"<\|image\|>",
    r"<image_soft_token>",
    r"\[IMG\]",
    r"<im_patch>",
    r"<\|reserved_special_token_\d+\|>",
    r"<unused\d+>",
    r"<\|placeholder\d+\|>",
    r"<\|dummy_\d+\|>",
    r"\[control_\d+\]",
    r"<\|extra_id_\d+\|>",
    r"<extra_id_\d+>",
    r"<SPECIAL_\d+>",
)
"""Tokens that model families reserve for images or leave unused, as patterns in order of preference. They already have
an embedding row, so nothing is resized, and adapters and servers accept the model unchanged."""


NOTHING: Mapping[str, int] = {}
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
"""The names that model families use for the width."""


class LanguageConfig(Loaded):
    TYPES: ClassVar[str]
    """Examples of model types, for messages."""
    model: str = ""
    """Hub id or local folder with weights and tokenizer."""
    config: dict[str, Any] = {}
    """Instead of `model`: the config of a model that starts from scratch, {model_type: ..., ...}, with a tokenizer
    trained on the cards' text."""
    tokenizer: str = Field("", exclude_if=lambda tokenizer: not tokenizer)
    """With `config`: the hub id or folder of a tokenizer, in place of a trained one, for weights that a stage reads by
    `from`. The config then says how large the vocabulary is (vocab_size)."""
    vocabulary: int = Field(2048, gt=300)
    """Vocabulary size of a tokenizer that is trained. Must hold at least the 256 bytes and the special tokens."""
    around_image: tuple[str, str] = ("", "")
    """Text before and after the tokens of each image. Each <word> in it is one token: [<Img>, </Img>] as in MiniGPT-4
    and XrayGPT, [<fake_token_around_image><global-img>, <fake_token_around_image>] as in Idefics3."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens; each gets its own embedding row: [<end_of_utterance>]."""

    template: str = Field("", exclude_if=lambda template: not template)
    """The chat template, for a tokenizer without one or in place of its own: `vicuna`, `llama2`, `plain` (for base
    models), `encoded` (for an encoder and a decoder), or Jinja."""

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        if reason := refuse_template(template):
            raise ValueError(reason)
        return template

    @model_validator(mode="after")
    def _one_source(self) -> LanguageConfig:
        if bool(self.model) == bool(self.config):
            raise ValueError("give either `model` (hub id or folder) or `config` (from scratch)")
        if self.tokenizer and not self.config.get("vocab_size"):
            raise ValueError("tokenizer needs config.vocab_size, the number of rows of the embeddings")
        if self.config and "model_type" not in self.config:
            raise ValueError(f"config.model_type is missing, e.g. {self.TYPES}")
        return self


def make_tokenizer(config: LanguageConfig, train: Callable[[int], Any], folder: Path, template: str = "") -> Any:
    """The tokenizer of the run: loaded from `folder`, or made and saved there if the folder has none.

    train: trains a tokenizer of a given size on the cards' text, for a model that starts from scratch. template: the
    name of the chat template of a tokenizer without one, if the recipe gives none. The result has
    an `image_token`, which is a reserved token of the vocabulary if there is one, and a chat template that accepts both
    texts and lists of parts."""
    if (folder / "tokenizer_config.json").is_file():
        return open_dialogue_tokenizer(folder)
    key, where = ("tokenizer", config.tokenizer) if config.tokenizer else ("model", config.model)
    made = open_tokenizer(where, f"model.language.{key}") if where else train(config.vocabulary)
    if config.template:
        made.chat_template = TEMPLATES.get(config.template, config.template)
        try_template(made, "model.language.template")
    if not made.chat_template and template:
        made.chat_template = TEMPLATES[template]
    if not made.chat_template:
        raise RecipeError(
            f"model.language: the tokenizer of {where} has no chat template; give it one, e.g. template:"
            " vicuna, or use an instruction-tuned model"
        )
    image = find_image_token(made.get_vocab()) or IMAGE
    made.chat_template = flatten_parts(made.chat_template, image)
    before, after = config.around_image
    if before or after:
        made.chat_template = made.chat_template.replace(
            CONTENT, f"{CONTENT} | replace({image!r}, {before + image + after!r})", 1
        )
    made.add_special_tokens(
        {"additional_special_tokens": [image, *new_tokens(config)]}, replace_extra_special_tokens=False
    )
    if made.pad_token is None:
        made.pad_token = made.eos_token
    # Loaded again to set image_token, which is then saved too.
    made.save_pretrained(folder)
    made = open_saved_tokenizer(folder, image_token=image)
    made.save_pretrained(folder)
    return made


def new_tokens(config: LanguageConfig) -> list[str]:
    """Tokens that the recipe adds to the vocabulary, apart from the image token: the words of `around_image`, and
    `special_tokens`."""
    return list(dict.fromkeys([*re.findall(r"<[^<>]+>", "".join(config.around_image)), *config.special_tokens]))


def find_image_token(vocabulary: dict[str, int]) -> str | None:
    """The token of a vocabulary that can stand for an image: the one with the lowest id that matches the first pattern
    of RESERVED with any match. None if nothing matches."""
    for pattern in RESERVED:
        if found := [token for token in vocabulary if re.fullmatch(pattern, token)]:
            return min(found, key=lambda token: vocabulary[token])
    return None


def build_language(
    auto: Any, config: LanguageConfig, tokenizer: Any, ids: Mapping[str, int] = NOTHING, **options: Any
) -> Any:
    """Loads or initialises the model. Rows for new tokens are added at the end of the embedding table.

    auto: the Auto class of transformers. ids: of further special tokens, for the config of a model from scratch.
    options: for reading weights."""
    if config.model:
        model = from_pretrained(auto, config.model, config, "model.language", **options)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            _add_rows(model, len(tokenizer))
        return model
    from transformers import CONFIG_MAPPING, AutoConfig

    # Copied, because transformers writes into nested settings.
    rest = {k: deepcopy(v) for k, v in config.config.items() if k != "model_type"}
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **ids,
    }
    if config.tokenizer and len(tokenizer) > config.config["vocab_size"]:
        raise RecipeError(
            f"model.language: config.vocab_size is {config.config['vocab_size']}, and the tokenizer has"
            f" {len(tokenizer)} tokens with those that the recipe adds"
        )
    kind = config.config["model_type"]
    if kind not in CONFIG_MAPPING:
        near = did_you_mean(kind, CONFIG_MAPPING)
        raise RecipeError(f"model.language: transformers has no model of type {kind!r}{near}")
    with refuse_values("model.language.config"):
        made = AutoConfig.for_model(kind, **{"vocab_size": len(tokenizer), **special, **rest})
        return auto.from_config(made, trust_remote_code=False)


def _add_rows(model: Any, rows: int) -> None:
    """Makes the tables of a model longer. New rows get the mean of the others, for which deferred tables are in memory
    for a while."""
    stored = []
    for find in (model.get_input_embeddings, model.get_output_embeddings):
        stored.append((find, deferred.source_of(find().weight), len(find().weight)))
        deferred.fill(find())
    model.resize_token_embeddings(rows)
    for find, source, before in stored:
        weight = find().weight
        if source is not None and deferred.source_of(weight) is None:  # else it is tied to the other table
            deferred.put_off(weight, deferred.Grown(source, before, weight.detach()[before:].clone()))


def make_standalone(config: LanguageConfig, built: Any) -> Any:
    """A config that builds the same without an id or a path."""
    if not config.model:
        return config.model_copy(update={"tokenizer": ""})
    return config.model_copy(update={"model": "", "config": describe(built)})


def find_first(known: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """The number under the first of these names of settings."""
    return next((known[name] for name in names if isinstance(known.get(name), int)), None)


def read_config(config: LanguageConfig) -> dict[str, Any]:
    """The language model's config, if the recipe or a local folder gives it, else {}; transformers is not imported."""
    if config.config:
        return config.config
    stored = Path(config.model) / "config.json"
    found: dict[str, Any] = json.loads(stored.read_text()) if stored.is_file() else {}
    inner: dict[str, Any] = found.get("text_config", found)
    return inner
