"""Samples for a ready vision-language model: its own processor makes pixels, placeholders and text of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvlm.core.errors import DataError, RecipeError, did_you_mean
from medvlm.core.families import Family, Processed, family_of
from medvlm.core.geometry import resize
from medvlm.core.sample import Batch, Medium, Question, Sample
from medvlm.data.dialogue import Dialogue, Document, Turn
from medvlm.data.prepare import Prepare, Seen
from medvlm.data.rows import Stacked, collate
from medvlm.data.views import Views, is_flat, pictures
from medvlm.io.images import decode
from medvlm.tasks._writing import Writing

TEXTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels", "text_replacement_offsets")
"""What a processor gives beside the pixels."""


@dataclass(frozen=True)
class Pictures:
    """What the processor makes of a sample's pictures. tensors: by the name the model takes them by, pictures along the
    first axis or flattened into it. expansions, counts: the text that stands for each picture, and how many image
    tokens are in it."""

    tensors: Mapping[str, torch.Tensor]
    expansions: tuple[str, ...]
    counts: tuple[int, ...]


class Processor:
    """A family's processor of transformers (`stock`) with the model's config.

    settings: of its image processor, e.g. {size: {shortest_edge: 65536, longest_edge: 1048576}}.
    Raises RecipeError for a processor that is not there, has no chat template, or no such setting.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any] | None = None):
        from transformers import AutoConfig, AutoProcessor

        try:
            self.config: Any = AutoConfig.from_pretrained(folder)
            self.family: Family = family_of(self.config.model_type)
            self.stock: Any = AutoProcessor.from_pretrained(folder)
        except (OSError, ImportError) as reason:
            first = str(reason).strip().splitlines()[0]
            raise RecipeError(
                f"model.pretrained: {folder}: no processor ({first[:200]}); log in to the hub if it is gated, or give"
                " the path of a folder"
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
                    f" setting{did_you_mean(name, known)} (it has {', '.join(sorted(known))})"
                )
            if name in fixed and fixed[name] != value:
                raise RecipeError(
                    f"model.processor.{name}: {type(self.stock).__name__} sets it to {fixed[name]} in every call,"
                    " whatever its files say; choose another setting (it has"
                    f" {', '.join(sorted(set(known) - set(fixed)))})"
                )
            setattr(self.stock.image_processor, name, value)
        self.folder = folder
        self.tokenizer = self.stock.tokenizer
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.soft = str(self.tokenizer.convert_ids_to_tokens(self.config.image_token_id))

    @classmethod
    def of_run(cls, pretrained: str, settings: Mapping[str, Any], folder: Path) -> Processor:
        """As `folder` holds it, saved there first when it is not."""
        if not (folder / "config.json").is_file():
            made = cls(pretrained, settings)
            made.save(folder)
        return cls(folder)

    def save(self, folder: Path) -> None:
        """Processor and config, without weights: what evaluation and export build the model from."""
        self.stock.save_pretrained(folder)
        self.config.save_pretrained(folder)

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
        """Token ids of a conversation as the processor's apply_chat_template gives them. messages: with {"type":
        "image"} where a picture stands.

        ask: whether the template's opening of an answer follows. Raises DataError where the template keeps another
        number of pictures."""
        text: str = self.stock.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
        before, *after = text.split(self.stock.image_token)
        if len(after) != len(expansions):
            raise DataError(f"the chat template kept {len(after)} of {len(expansions)} image placeholders")
        bos = self.tokenizer.bos_token
        if self.family.lay_out:
            before, after = self.family.lay_out(before, after, bos)
        plain = bool(bos) and text.startswith(bos)  # a template that writes the first token itself: none is added
        whole = before + "".join(expansion + part for expansion, part in zip(expansions, after, strict=True))
        found: list[int] = self.tokenizer(whole, add_special_tokens=not plain).input_ids
        return found


class NativeDialogue(Dialogue):
    """Turns in the words of the processor's chat template; an image stands as the text that the processor expands it
    to."""

    processor: Processor

    def __init__(self, processor: Processor):
        object.__setattr__(self, "processor", processor)
        super().__init__(processor.tokenizer, processor.stock.image_token)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_turn", lru_cache(maxsize=512)(self._turn))

    def turn(self, text: str, image_tokens: Sequence[Any], answer: str | None) -> Turn:
        """image_tokens: the expansion of each picture, in order; the pictures come before the text.

        Raises DataError when a text holds a placeholder, or the template rewrites the prompt once an answer follows.
        """
        for token in {self.image_token, self.processor.soft}:
            if token in text or (answer and token in answer):
                raise DataError(f"a text holds {token}, which stands for an image; remove it from the archive's text")
        return self._turn(text, tuple(image_tokens), answer)

    def _turn(self, text: str, expansions: tuple[str, ...], answer: str | None) -> Turn:
        asked = {"role": "user", "content": [*({"type": "image"} for _ in expansions), {"type": "text", "text": text}]}
        prompt = self.processor.ids([asked], expansions, ask=True)
        if answer is None:
            return Turn(prompt, [])
        if self.processor.family.reads_prompt_both_ways:
            return Turn(prompt, self.tokenizer(answer + self.tokenizer.eos_token, add_special_tokens=False).input_ids)
        whole = self.processor.ids(
            [asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}], expansions, ask=False
        )
        if whole[: len(prompt)] != prompt:
            raise DataError(
                "the chat template does not keep the prompt as it is when an answer follows; labels would be misplaced"
            )
        return Turn(prompt, whole[len(prompt) :])


class EveryKind(dict[str, str]):
    """A ready model takes media of every kind."""

    def __contains__(self, kind: object) -> bool:
        return True


@dataclass(frozen=True)
class NativePrepare(Prepare):
    """views: kind of medium -> how it is shown; by default as it is, volumes in slices."""

    processor: Processor = field(kw_only=True)
    views: Mapping[str, Views] = field(kw_only=True)

    def see(self, sample: Sample, files: Mapping[str, Any], scale: float = 1.0) -> Seen:
        """One entry for all of a sample's media: how a picture is processed may depend on how many there are.

        scale: of the sides of all pictures, before the processor sees them.
        """
        shown = [self._pictures(medium, files[medium.member], sample) for medium in sample.media]
        images = [smaller(image, scale) for several in shown for image in several]
        if not images:
            return Seen([], None)
        made = self.processor.look(images)
        first, canvas = sample.media[0], None
        if is_flat(first, self._views(first)):
            stored, size = first.size[-2:], images[0].shape[:2]
            whole = self.processor.family.canvas(
                Processed(self.processor.stock, size, made.tensors, made.expansions[0], len(images))
            )
            canvas = whole if size == stored else resize(stored, size).then(whole)
        return Seen([("image", made)], canvas)

    def document(
        self, sample: Sample, questions: Sequence[Question], seen: Seen, shows: Sequence[str], answered: bool = True
    ) -> Document:
        """Raises DataError where the text does not hold as many image tokens as there are features: they would be laid
        into wrong places."""
        made = super().document(sample, questions, seen, shows, answered)
        features = sum(count for _, shown in made.media for count in shown.counts)
        for branch in [ids for ids, _ in made.branches] or [[]]:
            tokens = (made.prefix + branch).count(self.processor.config.image_token_id)
            if tokens != features:
                sizes = ", ".join(" x ".join(map(str, m.size)) for m in sample.media)
                raise DataError(
                    f"{sample.source}/{sample.key}: {tokens} image tokens in the text for {features} features of its"
                    f" media ({sizes}); is the chat template that of this model?"
                )
        return made

    def expansions(self, seen: Seen) -> Sequence[str]:
        return [text for _, shown in seen.media for text in shown.expansions]

    def num_image_tokens(self, seen: Seen) -> int:
        return sum(count for _, shown in seen.media for count in shown.counts)

    def collate(self, documents: Sequence[Document], pad_id: int, pack: bool = True) -> Batch:
        """A model that reads its prompt in both directions is given one answer a row: what it makes of a prompt depends
        on the whole of it."""
        if self.processor.family.reads_prompt_both_ways:
            documents = (
                [replace(d, branches=[branch]) for d in documents for branch in d.branches]
                if any(d.branches for d in documents)
                else documents
            )
            pack = False
        return collate(documents, {}, pad_id, pack, stack)

    def picture(self, sample: Sample, files: Mapping[str, Any]) -> np.ndarray:
        """Of medium 0 what lies on the canvas, in stored pixels; the middle one of several slices."""
        first = sample.media[0]
        shown = self._pictures(first, files[first.member], sample)
        canvas = self.see(sample, files).canvas
        whole = shown[len(shown) // 2]
        if canvas is None:
            return whole
        (height, width), size = whole.shape[:2], canvas.size[-2:]
        x1, y1, x2, y2 = (round(v) for v in canvas.to_stored((0.0, 0.0, float(size[1]), float(size[0]))))
        framed = np.pad(whole, ((max(-y1, 0), max(y2 - height, 0)), (max(-x1, 0), max(x2 - width, 0)), (0, 0)))
        return np.ascontiguousarray(framed[max(y1, 0) : max(y1, 0) + y2 - y1, max(x1, 0) : max(x1, 0) + x2 - x1])

    def _views(self, medium: Medium) -> Views:
        return self.views.get(medium.kind, Views())

    def _pictures(self, medium: Medium, stored: Any, sample: Sample) -> list[np.ndarray]:
        array = decode(stored, medium.member) if isinstance(stored, bytes) else stored
        views, most = self._views(medium), None
        if views.max_tokens and len(medium.size) == 3:
            each = self.processor.look(pictures(array, medium, views, most=1)).counts[0]
            most = views.max_tokens // each
            if not most:
                raise DataError(
                    f"{sample.source}/{sample.key}: one slice takes {each} tokens, model.views.{medium.kind}.max_tokens"
                    f" is {views.max_tokens}; raise it, or let the processor make images smaller"
                )
        return pictures(array, medium, views, most)


def smaller(image: np.ndarray, scale: float) -> np.ndarray:
    """uint8 [H, W, 3] with its sides times `scale`, antialiased."""
    if scale == 1.0:
        return image
    size = [max(1, round(pixels * scale)) for pixels in image.shape[:2]]
    pixels_CHW = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return (
        torch.nn.functional.interpolate(pixels_CHW[None], size=size, mode="bicubic", antialias=True)[0]
        .permute(1, 2, 0)
        .contiguous()
        .numpy()
    )


def stack(documents: Sequence[Document]) -> Stacked:
    """The tensors of all distinct samples along the first axis, filled up with zeros where their other axes differ, as
    the processors do for a batch; the models know the padding by sizes or masks. The same Pictures in several documents
    are encoded once."""
    number: dict[int, int] = {}
    distinct: list[Pictures] = []
    for _, shown in (m for document in documents for m in document.media):
        if id(shown) not in number:
            number[id(shown)] = len(distinct)
            distinct.append(shown)
    starts = np.cumsum([0, *(sum(p.counts) for p in distinct)]).tolist()
    rows_of = [
        [row for _, shown in d.media for row in range(starts[number[id(shown)]], starts[number[id(shown)] + 1])]
        for d in documents
    ]
    return {
        name: _joined([p.tensors[name] for p in distinct]) for name in (distinct[0].tensors if distinct else ())
    }, rows_of


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    largest = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [
            n for axis, size in reversed(list(zip(tensor.shape[1:], largest, strict=True))) for n in (0, size - axis)
        ]
        padded.append(torch.nn.functional.pad(tensor, missing) if any(missing) else tensor)
    return torch.cat(padded)


def make_native_prepare(processor: Processor, views: Mapping[str, Views], codec: str, scale: int) -> NativePrepare:
    """codec: "" for the one that the family was taught."""
    writing = Writing(codec or processor.family.codec, scale)
    return NativePrepare({}, EveryKind(), NativeDialogue(processor), {}, writing, processor=processor, views=views)
