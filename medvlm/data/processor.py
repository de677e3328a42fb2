"""The processor and chat template of a pretrained vision-language model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvlm.core.errors import DataError, RecipeError, did_you_mean, list_some
from medvlm.core.families import Family, family_of
from medvlm.core.media_words import list_media_ids, names_medium
from medvlm.core.weights import open_stock
from medvlm.data.control_words import shield, tokenize
from medvlm.data.dialogue import Turn, fill_template

TEXTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels", "text_replacement_offsets")
"""Outputs of a processor other than pixels."""


@dataclass(frozen=True)
class Pictures:
    """A sample's pictures after the processor. tensors: by the names of the model's arguments, with pictures along the
    first axis or flattened into it. expansions, counts: the text that replaces each picture's placeholder, and its
    number of image tokens."""

    tensors: Mapping[str, torch.Tensor]
    expansions: tuple[str, ...]
    counts: tuple[int, ...]


class Processor:
    """A transformers processor (`stock`) with the model's config.

    settings: of its image processor, e.g. {size: {shortest_edge: 65536, longest_edge: 1048576}}.
    Raises RecipeError if the processor cannot be loaded, has no chat template, or has no such setting.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any] | None = None):
        from transformers import AutoConfig, AutoProcessor

        try:
            self.config: Any = open_stock(AutoConfig, folder)
            self.family: Family = family_of(self.config.model_type)
            self.stock: Any = open_stock(AutoProcessor, folder)
        except (OSError, ImportError) as reason:
            first = str(reason).strip().splitlines()[0]
            raise RecipeError(
                f"model.pretrained: {folder}: no processor ({first[:200]}); log in to the hub if the model is gated, or"
                " give the path of a folder"
            ) from None
        if self.family.template and not self.stock.chat_template:
            self.stock.chat_template = self.family.template
        if not self.stock.chat_template:
            raise RecipeError(
                f"model.pretrained: the processor of {folder} has no chat template; use an instruction-tuned model, or"
                " add chat_template.jinja to its folder"
            )
        fixed = {
            **getattr(type(self.stock), "images_kwargs", {}),
            **getattr(self.stock.valid_processor_kwargs, "_defaults", {}).get("images_kwargs", {}),
        }
        for name, value in (settings or {}).items():
            known = [n for n in self.stock.image_processor.to_dict() if not n.endswith("_type")]
            if name not in known:
                raise RecipeError(
                    f"model.processor.{name}: {type(self.stock.image_processor).__name__} has no such"
                    f" setting{did_you_mean(name, known)} (it has {list_some(sorted(known))})"
                )
            if name in fixed and fixed[name] != value:
                raise RecipeError(
                    f"model.processor.{name}: {type(self.stock).__name__} always sets it to {fixed[name]}; choose"
                    f" another setting (it has {list_some(sorted(set(known) - set(fixed)))})"
                )
            setattr(self.stock.image_processor, name, value)
        self.folder = folder
        self.tokenizer = self.stock.tokenizer
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.soft = str(self.tokenizer.convert_ids_to_tokens(self.config.image_token_id))
        named = [(n, v) for n, v in vars(self.stock).items() if n.endswith(("_token", "_image_tag"))]
        marks = {name: value for name, value in named if isinstance(value, str) and value}
        self.media_words = frozenset({self.soft, self.stock.image_token, *marks.values()})
        of_media = {value for name, value in marks.items() if names_medium(name)}
        self.barred_ids = list_media_ids(self.tokenizer, {self.soft, self.stock.image_token, *of_media})

    @classmethod
    def of_run(cls, pretrained: str, settings: Mapping[str, Any], folder: Path) -> Processor:
        """The processor in `folder`. If there is none, the pretrained one is saved there first."""
        if not (folder / "config.json").is_file():
            made = cls(pretrained, settings)
            made.save(folder)
        return cls(folder)

    def save(self, folder: Path) -> None:
        """Saves processor and configs, without weights. Evaluation and export build the model from these."""
        from transformers import GenerationConfig

        self.stock.save_pretrained(folder)
        self.config.save_pretrained(folder)
        # It names the tokens that end an answer, often more than config.json does.
        with suppress(OSError):
            GenerationConfig.from_pretrained(self.folder).save_pretrained(folder)

    def look(self, images: Sequence[np.ndarray]) -> Pictures:
        """images: uint8 [H, W, 3]."""
        from PIL import Image

        made = self.stock(
            images=[[Image.fromarray(image) for image in images]], text=[self.stock.image_token * len(images)],
            return_tensors="pt", return_text_replacement_offsets=True,
        )  # fmt: skip
        expansions = tuple(sys.intern(offset["replacement"]) for offset in made["text_replacement_offsets"][0])
        tensors = {name: value for name, value in made.items() if name not in TEXTS}
        return Pictures(tensors, expansions, tuple(text.count(self.soft) for text in expansions))

    def blank(self) -> Mapping[str, torch.Tensor]:
        """The tensors of one small black picture."""
        return self.look([np.zeros((32, 32, 3), np.uint8)]).tensors

    def ids(self, messages: Sequence[Mapping[str, Any]], expansions: Sequence[str], ask: bool) -> list[int]:
        """Token ids of a conversation, equal to those of the processor's apply_chat_template. messages: with {"type":
        "image"} for each picture.

        ask: whether to add the template's opening of an answer. Raises DataError if the template changes the number of
        pictures."""
        text: str = fill_template(self.stock, list(messages), tokenize=False, add_generation_prompt=ask)
        before, *after = text.split(self.stock.image_token)
        if len(after) != len(expansions):
            raise DataError(f"the chat template kept {len(after)} of {len(expansions)} image placeholders")
        bos = self.tokenizer.bos_token
        if self.family.lay_out:
            before, after = self.family.lay_out(before, after, bos)
        plain = bool(bos) and text.startswith(bos)  # the template already writes the first token
        whole = before + "".join(expansion + part for expansion, part in zip(expansions, after, strict=True))
        return tokenize(whole, self.tokenizer, add_special_tokens=not plain)


class NativeDialogue:
    """Makes turns with the processor's chat template. Each image is replaced by the text that the processor expands it
    to."""

    def __init__(self, processor: Processor):
        self.processor, self.tokenizer = processor, processor.tokenizer
        self._turn = lru_cache(maxsize=512)(self._make_turn)

    def turn(self, text: str, image_tokens: Sequence[Any], answer: str | None) -> Turn:
        """image_tokens: the expansion of each picture, in order; the pictures come before the text.

        Raises DataError if the template changes the prompt when an answer follows."""
        marks = self.processor.media_words
        text, answer = shield(text, self.tokenizer, marks), answer and shield(answer, self.tokenizer, marks)
        return self._turn(text, tuple(image_tokens), answer)

    def _make_turn(self, text: str, expansions: tuple[str, ...], answer: str | None) -> Turn:
        asked = {"role": "user", "content": [*({"type": "image"} for _ in expansions), {"type": "text", "text": text}]}
        prompt = self.processor.ids([asked], expansions, ask=True)
        if answer is None:
            return Turn(prompt, [])
        if self.processor.family.reads_prompt_both_ways:
            return Turn(prompt, tokenize(answer + self.tokenizer.eos_token, self.tokenizer, add_special_tokens=False))
        whole = self.processor.ids(
            [asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}], expansions, ask=False
        )
        if whole[: len(prompt)] != prompt:
            raise DataError(
                "the chat template changes the prompt when an answer follows, so labels would be misplaced; use another"
                " chat template"
            )
        ends = [self.tokenizer.convert_tokens_to_ids(end)] if (end := self.processor.family.end) else []
        return Turn(prompt, whole[len(prompt) :] + ends)
