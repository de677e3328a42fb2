"""Any causal language model of transformers: by hub id, by folder, or from a config, then started from scratch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from medvlm.core.config import Config as Base
from medvlm.core.errors import RecipeError

IMAGE = "<image>"
"""The text that stands for an image; the tokenizer holds it as one token."""

CONTENT = "'content': part.text"
# Templates of text-only models take a message as text, processors hand it over as a list of parts. This
# turns lists into text first, so that the very same template serves training, evaluation and the export.
FLATTEN = (
    "{%- set flat = namespace(messages=[]) -%}{%- for m in messages -%}{%- set part = namespace(text='') -%}"
    "{%- if m['content'] is string -%}{%- set part.text = m['content'] -%}{%- else -%}{%- for p in m['content'] -%}"
    "{%- set part.text = part.text + ('" + IMAGE + "' if p['type'] == 'image' else p['text']) -%}{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [{'role': m['role'], " + CONTENT + "}] -%}{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)


class Config(Base):
    kind: Literal["causal"]
    model: str = ""
    """Hub id or local folder with weights and tokenizer."""
    config: dict[str, Any] = {}
    """Without `model`: {model_type: qwen2, hidden_size: ...}, from scratch, with a tokenizer trained from the cards' text."""
    vocabulary: int = Field(2048, gt=300)
    """Size of a tokenizer that is trained; at least the 256 bytes and the special tokens."""
    around_image: tuple[str, str] = ("", "")
    """Text before and after the tokens of each image, where each <word> is one token: [<Img>, </Img>] as in MiniGPT-4 and XrayGPT,
    [<fake_token_around_image><global-img>, <fake_token_around_image>] as in Idefics3."""
    special_tokens: tuple[str, ...] = ()
    """Further ones, each a row of its own: [<end_of_utterance>]."""

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if bool(self.model) == bool(self.config):
            raise ValueError("give either `model` (hub id or folder) or `config` (from scratch)")
        if self.config and "model_type" not in self.config:
            raise ValueError("config.model_type is missing, e.g. qwen2, llama, gpt2")
        return self


def facts(config: Config) -> int | None:
    """Width of its token embeddings, where it is known without transformers."""
    return config.config.get("hidden_size")


def tokenizer(config: Config, train: Callable[[int], Any], folder: Path) -> Any:
    """The tokenizer of the run: loaded from `folder` when it is there, else made and saved into it.

    train: makes one of a given size from the cards' text, for a model that starts from scratch. It holds IMAGE as one token and a chat template that accepts both texts and lists of parts.
    """
    from transformers import AutoTokenizer

    if (folder / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    made = AutoTokenizer.from_pretrained(config.model) if config.model else train(config.vocabulary)
    if not made.chat_template:
        raise RecipeError(f"model.language: the tokenizer of {config.model} has no chat template; use an instruction-tuned model, or add the template to its folder")
    if FLATTEN not in made.chat_template:
        made.chat_template = FLATTEN + made.chat_template
    before, after = config.around_image
    if before or after:
        made.chat_template = made.chat_template.replace(CONTENT, f"{CONTENT} | replace({IMAGE!r}, {before + IMAGE + after!r})", 1)
    tags = re.findall(r"<[^<>]+>", before + after)
    made.add_special_tokens({"additional_special_tokens": [IMAGE, *dict.fromkeys(tags), *config.special_tokens]}, replace_extra_special_tokens=False)
    if made.pad_token is None:
        made.pad_token = made.eos_token
    made.save_pretrained(folder)
    return made


def build(config: Config, tokenizer: Any) -> nn.Module:
    """Rows for new tokens are added at the end of the embedding table."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if config.model:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(config.model, dtype="float32")
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:  # type: ignore[operator]
            model.resize_token_embeddings(len(tokenizer))  # type: ignore[operator]
        return model
    rest = {k: v for k, v in config.config.items() if k != "model_type"}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config.config["model_type"], **{"vocab_size": len(tokenizer), **ids, **rest}))
