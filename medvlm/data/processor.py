"""The processor and chat template of a pretrained vision-language model."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvlm.core.chat_templates import TEMPLATES, add_system, flatten_parts
from medvlm.core.errors import DataError, RecipeError, did_you_mean, list_some
from medvlm.core.families import Family, family_of
from medvlm.core.media_words import list_media_ids, names_medium
from medvlm.core.turns import Message
from medvlm.core.weights import open_stock
from medvlm.data.control_words import tokenize
from medvlm.data.dialogue import Conversation, Turn, fill_template
from medvlm.data.views import Clip

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


_TILE = re.compile(r"row_\d+_col_\d+|global-img")
"""Words of tiles that processors write without naming them."""


class Processor:
    """A transformers processor (`stock`) with the model's config.

    settings: of its image processor, e.g. {size: {shortest_edge: 65536, longest_edge: 1048576}}. template: in place of
    its own chat template. system: a system prompt to add to it.
    Raises RecipeError if the processor cannot be loaded, has no chat template, or has no such setting.
    """

    def __init__(
        self, folder: str | Path, settings: Mapping[str, Any] | None = None, template: str = "", system: str = ""
    ):
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
        if template and self.family.places_picture:
            raise RecipeError(
                f"model.template: the processor of {self.config.model_type} writes its prompts; remove it"
            )
        if template:
            self.stock.chat_template = flatten_parts(TEMPLATES.get(template, template), self.stock.image_token)
        elif self.family.template and not self.stock.chat_template:
            self.stock.chat_template = self.family.template
        if not self.stock.chat_template:
            raise RecipeError(
                f"model.pretrained: the processor of {folder} has no chat template; give it one with model.template, or"
                " use an instruction-tuned model"
            )
        if system and self.family.asks_once:
            raise RecipeError(f"model.system: {self.config.model_type} takes no system prompt; remove it")
        if system:
            add_system(self.stock, system)
        fixed = {
            **getattr(type(self.stock), "images_kwargs", {}),
            **getattr(self.stock.valid_processor_kwargs, "_defaults", {}).get("images_kwargs", {}),
        }
        own = dict(settings or {})
        for_video = own.pop("video", {})
        self._change("model.processor", self.stock.image_processor, own, fixed)
        if for_video and not self.family.video_tensors:
            raise RecipeError(f"model.processor.video: {self.config.model_type} shows videos as pictures; remove it")
        if for_video:
            self._change("model.processor.video", self.stock.video_processor, for_video, {})
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

    def _change(self, key: str, part: Any, settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
        """key: where the recipe has the settings. part: what has them. fixed: those that the processor always sets."""
        known = [n for n in part.to_dict() if not n.endswith("_type")]
        for name, value in settings.items():
            if name not in known:
                raise RecipeError(
                    f"{key}.{name}: {type(part).__name__} has no such"
                    f" setting{did_you_mean(name, known)} (it has {list_some(sorted(known))})"
                )
            if name in fixed and fixed[name] != value:
                raise RecipeError(
                    f"{key}.{name}: {type(self.stock).__name__} always sets it to {fixed[name]}; choose"
                    f" another setting (it has {list_some(sorted(set(known) - set(fixed)))})"
                )
            setattr(part, name, value)

    @cached_property
    def media_ids(self) -> frozenset[int]:
        """The ids of its words for media, and for the rows and columns of tiles."""
        known = self.tokenizer.get_vocab()
        places = (id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if _TILE.search(str(token)))
        return frozenset({*(known[word] for word in self.media_words if word in known), *places})

    @classmethod
    def of_run(
        cls, pretrained: str, settings: Mapping[str, Any], folder: Path, template: str = "", system: str = ""
    ) -> Processor:
        """The processor in `folder`. If there is none, the pretrained one is saved there first."""
        if not (folder / "config.json").is_file():
            made = cls(pretrained, settings, template, system)
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

    def look(self, images: Sequence[np.ndarray | Clip]) -> Pictures:
        """images: uint8 [H, W, 3], or videos of a family that takes them."""
        pictures = [each for each in images if not isinstance(each, Clip)]
        if len(pictures) < len(images):
            return _join([self._watch(each) if isinstance(each, Clip) else self.look([each]) for each in images])
        from PIL import Image

        placed = "" if self.family.places_picture else self.stock.image_token * len(images)
        made = self.stock(
            images=[[Image.fromarray(image) for image in pictures]], text=[placed],
            return_tensors="pt", return_text_replacement_offsets=True,
        )  # fmt: skip
        expansions = tuple(sys.intern(offset["replacement"]) for offset in made["text_replacement_offsets"][0])
        tensors = {name: value for name, value in made.items() if name not in TEXTS}
        tensors |= {name: torch.ones(len(images)).view(torch.int32) for name in self.family.of_positions}
        return Pictures(tensors, expansions, tuple(text.count(self.soft) for text in expansions))

    def _watch(self, clip: Clip) -> Pictures:
        """A video. Its tokens get the id of the image token: features take their place, so the id does not matter."""
        about = {"fps": clip.fps, "frames_indices": list(clip.indices), "total_num_frames": clip.total}
        made = self.stock(
            videos=[list(clip.frames)], text=[self.stock.video_token], video_metadata=[about], do_sample_frames=False,
            return_metadata=True, return_tensors="pt", return_text_replacement_offsets=True,
        )  # fmt: skip
        (offset,) = made["text_replacement_offsets"][0]
        expansion = sys.intern(offset["replacement"].replace(self.stock.video_token, self.soft))
        tensors = {own: made[name] for name, own in self.family.video_tensors.items()}
        tensors |= {name: tensors[name].float().view(torch.int32) for name in self.family.of_positions}
        return Pictures(tensors, (expansion,), (expansion.count(self.soft),))

    def blank(self) -> Mapping[str, torch.Tensor]:
        """The tensors of one small black picture."""
        return self.look([np.zeros((32, 32, 3), np.uint8)]).tensors


def _join(several: Sequence[Pictures]) -> Pictures:
    return Pictures(
        {name: torch.cat([each.tensors[name] for each in several]) for name in several[0].tensors},
        tuple(text for each in several for text in each.expansions),
        tuple(count for each in several for count in each.counts),
    )


class NativeDialogue(Conversation):
    """Makes turns with the processor's chat template, with the ids of its apply_chat_template. What stands for a
    picture is the text that the processor expands it to."""

    def __init__(self, processor: Processor):
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.media_words = processor.media_words
        self._converse = lru_cache(maxsize=512)(self._converse)  # type: ignore[method-assign]

    def _converse(self, messages: tuple[Message, ...], pictures: tuple[str, ...]) -> Turn:  # type: ignore[no-redef]
        if not self.processor.family.asks_once:
            return self._end(super()._converse(messages, pictures))
        asked, *answers = messages
        if asked.role == "system" or len(answers) > 1:
            raise RecipeError(
                f"{self.processor.config.model_type} takes one question at a time and no system prompt; leave dialogues"
                " and system prompts out of its data"
            )
        prompt = self.read(self.write((asked,), ask=True), pictures)
        ended = [answer.text + self.tokenizer.eos_token for answer in answers]
        return Turn(prompt, tokenize("".join(ended), self.tokenizer, add_special_tokens=False))

    def _end(self, turn: Turn) -> Turn:
        """With the token that ends the answers of a family whose template does not write one. After an earlier answer
        it is there, as the beginning of the next turn."""
        if not self.processor.family.end:
            return turn
        end: int = self.tokenizer.convert_tokens_to_ids(self.processor.family.end)
        earlier = tuple((start, stop + (turn.prompt[stop : stop + 1] == [end])) for start, stop in turn.earlier)
        return replace(turn, answer=[*turn.answer, end] if turn.answer else [], earlier=earlier)

    def write(self, messages: tuple[Message, ...], ask: bool) -> str:
        """Raises DataError if the template changes the number of pictures. A picture that the processor places by
        itself comes first."""
        spoken = [
            {
                "role": m.role,
                "content": [{"type": "image"} if p is None else {"type": "text", "text": p} for p in m.parts],
            }
            for m in messages
        ]
        text: str = fill_template(self.processor.stock, spoken, tokenize=False, add_generation_prompt=ask)
        expected = sum(m.parts.count(None) for m in messages)
        if self.processor.family.places_picture:
            text = self.processor.stock.image_token * expected + text
        kept = text.count(self.processor.stock.image_token)
        if kept != expected:
            raise DataError(f"the chat template kept {kept} of {expected} image placeholders")
        return text

    def read(self, text: str, pictures: tuple[str, ...]) -> list[int]:
        before, *after = text.split(self.processor.stock.image_token)
        bos, lay_out = self.tokenizer.bos_token, self.processor.family.lay_out
        if lay_out:
            before, after = lay_out(self.processor.stock, before, after)
        plain = bool(bos) and text.startswith(bos)  # the template already writes the first token
        whole = before + "".join(each + part for each, part in zip(pictures[: len(after)], after, strict=True))
        return tokenize(whole, self.tokenizer, add_special_tokens=not (plain or lay_out))
