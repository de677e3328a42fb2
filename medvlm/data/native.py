"""Prepares samples for a pretrained vision-language model with the model's own processor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch

from medvlm.core.errors import DataError, RecipeError
from medvlm.core.families import IMAGE, Processed
from medvlm.core.geometry import Canvas, join_canvases, resize
from medvlm.core.padding import pad_and_join
from medvlm.core.sample import Batch, Medium, Question, Sample, Truth
from medvlm.data.dialogue import TokenSequence, Turn, join_turns
from medvlm.data.encoded import split_prompts
from medvlm.data.estimate import EstimatedNativeDialogue, draw_ramps
from medvlm.data.prepare import AddContext, Prepare, Seen, ask, place_truth, weigh_answers
from medvlm.data.processor import NativeDialogue, Pictures, Processor
from medvlm.data.rows import Stacked, collate
from medvlm.data.views import Clip, Views, is_flat, list_slices, make_clip, make_pictures
from medvlm.io.images import decode
from medvlm.tasks._writing import Writing

AS_IT_IS = Views()


@dataclass(frozen=True)
class NativePrepare:
    """dialogue: the processor's chat template. boxes: how they are written. views: kind of medium -> how it is shown;
    by default unchanged, volumes as slices. beyond_8_bits: how media of other kinds are shown if they have more than 8
    bits. is_estimate: use grey ramps instead of the files. max_pixels: larger pictures are made smaller before the
    processor sees them; 0 for no limit."""

    processor: Processor
    dialogue: NativeDialogue | EstimatedNativeDialogue
    boxes: Writing
    views: Mapping[str, Views]
    beyond_8_bits: Views = AS_IT_IS
    is_estimate: bool = False
    is_slow: bool = True
    context: AddContext | None = None
    max_pixels: int = 0

    @property
    def shares_rows(self) -> bool:
        return self.processor.family.shares_rows

    @property
    def shares_before_media(self) -> bool:
        """False, because positions in a grid depend on all pictures before."""
        return False

    @property
    def media_ids(self) -> frozenset[int]:
        if self.processor.family.asks_once:
            raise RecipeError("loss: all: this family reads its prompt in both directions; only answers can be trained")
        return self.processor.media_ids

    def takes(self, kind: str) -> bool:
        return True

    def kind_of(self, axes: int, asked: str = "") -> str:
        return asked or "own"

    def see(self, sample: Sample, files: Mapping[str, Any], scale: float = 1.0) -> Seen:
        """One entry for all media of a sample, because processing a picture may depend on the number of pictures.

        scale: factor for the sides of all pictures, before the processor sees them.
        """
        if self.is_estimate:
            sample, files = draw_ramps(sample)
        shown = [self._pictures(medium, files[medium.member], sample) for medium in sample.media]
        images = [scale_down(image, scale * self._fit(image)) for several in shown for image in several]
        if self.processor.family.places_picture and len(images) != 1:
            raise RecipeError(
                f"{sample.source}/{sample.key}: {self.processor.config.model_type} reads one picture with each"
                f" question, and this sample shows it {len(images) or 'none'}; leave such samples out, or show one"
                " slice of each volume (model.views.KIND.max_slices: 1)"
            )
        if not images:
            return Seen([], None)
        made = self.processor.look(images)
        canvas = join_canvases(list(self._find_canvases(sample, shown, made)))
        looked_at = None if self.is_estimate else (sample, files)
        return Seen([(IMAGE, made)], canvas, [len(several) for several in shown], looked_at)

    def _find_canvases(
        self, sample: Sample, shown: Sequence[list[np.ndarray] | list[Clip]], made: Pictures
    ) -> Iterator[Canvas | None]:
        """Of each medium, by its first picture; None for one that is not shown as stored."""
        at, pictures = 0, sum(map(len, shown))
        for medium, own in zip(sample.media, shown, strict=True):
            views = self._views(medium)
            if not own or not is_flat(medium, views):
                yield None
            else:
                stored, size, texts = medium.size[-2:], _show_one(own[0]).shape[:2], made.expansions
                seen = Processed(self.processor.stock, size, made.tensors, texts[at], pictures, texts[:at])
                whole = self.processor.family.canvas(seen)
                canvas = whole if size == stored else resize(stored, size).then(whole)
                first = own[0]
                slices = first.indices if isinstance(first, Clip) else list_slices(medium, views, len(own))
                yield replace(canvas, slices=slices)
            at += len(own)

    def limit(self, max_pixels: int) -> NativePrepare:
        return replace(self, max_pixels=max_pixels)

    def _fit(self, image: np.ndarray | Clip) -> float:
        """The factor for the sides of a picture so that it has at most `max_pixels`."""
        pixels = math.prod(_show_one(image).shape[:2])
        return math.sqrt(self.max_pixels / pixels) if self.max_pixels and pixels > self.max_pixels else 1.0

    def truth(self, question: Question, canvas: Canvas | None) -> Truth:
        return place_truth(question, canvas, self.boxes)

    def turn(self, sample: Sample, question: Question, seen: Seen, shows: Sequence[str], answered: bool) -> Turn:
        pictures = [text for _, shown in seen.media for text in shown.expansions]
        return ask(self, self.dialogue, sample, question, seen, pictures, shows, answered)

    def document(
        self, sample: Sample, questions: Sequence[Question], seen: Seen, shows: Sequence[str], answered: bool = True
    ) -> TokenSequence:
        """Raises DataError if the number of image tokens in the text differs from the number of features, which would
        put features at wrong positions."""
        turns = [self.turn(sample, question, seen, shows, answered) for question in questions]
        media = seen.media if "media" in shows else []
        made = join_turns(sample.key, turns, media, weigh_answers(questions) if answered else ())
        features = sum(count for _, shown in made.media for count in shown.counts)
        for branch in [ids for ids, _ in made.branches] or [[]]:
            tokens = (made.prefix + branch).count(self.processor.config.image_token_id)
            if tokens != features:
                sizes = ", ".join(" x ".join(map(str, m.size)) for m in sample.media)
                raise DataError(
                    f"{sample.source}/{sample.key}: {tokens} image tokens in the text for {features} features of its"
                    f" media ({sizes}); use the chat template of this model"
                )
        return made

    def num_image_tokens(self, seen: Seen) -> int:
        return sum(count for _, shown in seen.media for count in shown.counts)

    def collate(self, documents: Sequence[TokenSequence], pad_id: int, pack: bool = True, width: int = 0) -> Batch:
        """A model whose texts cannot share a row gets one answer per row, each with its prompt. To an encoder, answers
        share their prompt."""
        if self.processor.family.has_encoder:
            documents = [part for document in documents for part in self._split(document)]
            pack = False
        elif not self.processor.family.shares_rows:
            documents = (
                [replace(d, branches=[branch]) for d in documents for branch in d.branches]
                if any(d.branches for d in documents)
                else documents
            )
            pack = False
        return collate(documents, {}, pad_id, pack, stack, width)

    def _split(self, document: TokenSequence) -> Iterator[TokenSequence]:
        tokens = {name: sum(shown.counts) for name, shown in document.media}
        return split_prompts(document, self.processor.config.image_token_id, tokens)

    def picture(self, sample: Sample, files: Mapping[str, Any]) -> np.ndarray:
        """The part of medium 0 that is on the canvas, in stored pixels; the middle one of several slices."""
        first = sample.media[0]
        shown = self._pictures(first, files[first.member], sample)
        canvas = self.see(sample, files).canvas
        whole = _show_one(shown[len(shown) // 2])
        if canvas is None:
            return whole
        (height, width), size = whole.shape[:2], canvas.size[-2:]
        x1, y1, x2, y2 = (round(v) for v in canvas.to_stored((0.0, 0.0, float(size[1]), float(size[0]))))
        framed = np.pad(whole, ((max(-y1, 0), max(y2 - height, 0)), (max(-x1, 0), max(x2 - width, 0)), (0, 0)))
        return np.ascontiguousarray(framed[max(y1, 0) : max(y1, 0) + y2 - y1, max(x1, 0) : max(x1, 0) + x2 - x1])

    def show(self, sample: Sample, files: Mapping[str, Any]) -> list[list[np.ndarray]]:
        shown = []
        for medium in sample.media:
            own = self._pictures(medium, files[medium.member], sample)
            pictures = [each for each in own if not isinstance(each, Clip)]
            if len(pictures) < len(own):
                raise DataError(f"{sample.source}/{sample.key}: is shown as a video, which is no picture")
            shown.append(pictures)
        return shown

    def estimate(self, knows_words: bool) -> Prepare:
        dialogue = self.dialogue if knows_words else EstimatedNativeDialogue(self.processor)
        return replace(self, dialogue=dialogue, is_estimate=True)

    def _views(self, medium: Medium) -> Views:
        return self.views.get(medium.kind, Views())

    def _pictures(self, medium: Medium, stored: Any, sample: Sample) -> list[np.ndarray] | list[Clip]:
        """The pictures of a medium, or one video."""
        array = decode(stored, medium.member) if isinstance(stored, bytes) else stored
        views, most = self._views(medium), None
        if views.video_fps:
            if len(medium.size) == 2:
                raise DataError(
                    f"{sample.source}/{sample.key}: has one picture where model.views.{medium.kind}.video_fps expects"
                    " a video; give pictures another kind in the card"
                )
            return [make_clip(array, medium, views)]
        if medium.kind not in self.views and array.dtype != np.uint8:
            views = self.beyond_8_bits
        if views.max_tokens and len(medium.size) == 3:
            each = self.processor.look(make_pictures(array, medium, views, most=1)).counts[0]
            most = views.max_tokens // each
            if not most:
                raise DataError(
                    f"{sample.source}/{sample.key}: one slice takes {each} tokens, but"
                    f" model.views.{medium.kind}.max_tokens is {views.max_tokens}; raise it, or reduce the image"
                    " size in model.processor"
                )
        return make_pictures(array, medium, views, most)


def _show_one(shown: np.ndarray | Clip) -> np.ndarray:
    """A picture, or the middle frame of a video."""
    return shown.frames[len(shown.frames) // 2] if isinstance(shown, Clip) else shown


@overload
def scale_down(image: np.ndarray, scale: float) -> np.ndarray: ...
@overload
def scale_down(image: Clip, scale: float) -> Clip: ...
def scale_down(image: np.ndarray | Clip, scale: float) -> np.ndarray | Clip:
    """uint8 [H, W, 3], or a video, with its sides times `scale`, antialiased."""
    if scale == 1.0:
        return image
    if isinstance(image, Clip):
        return replace(image, frames=tuple(scale_down(frame, scale) for frame in image.frames))
    size = [max(1, round(pixels * scale)) for pixels in image.shape[:2]]
    pixels_CHW = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return (
        torch.nn.functional.interpolate(pixels_CHW[None], size=size, mode="bicubic", antialias=True)[0]
        .permute(1, 2, 0)
        .contiguous()
        .numpy()
    )


def stack(documents: Sequence[TokenSequence]) -> Stacked:
    """Concatenates the tensors of all distinct samples along the first axis, zero-padded where their other axes differ,
    as the processors do for a batch; the models recognise padding by sizes or masks. The same Pictures in several
    documents are encoded once."""
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
        name: pad_and_join([p.tensors[name] for p in distinct]) for name in (distinct[0].tensors if distinct else ())
    }, rows_of


def make_native_prepare(processor: Processor, views: Mapping[str, Views], codec: str, scale: int) -> NativePrepare:
    """codec: how boxes are written; "" for the format that the family was trained with."""
    for kind, shown in views.items():
        if shown.video_fps and not processor.family.video_tensors:
            raise RecipeError(
                f"model.views.{kind}.video_fps: {processor.config.model_type} shows videos as pictures; remove it"
            )
    writing = Writing(codec or processor.family.codec, scale)
    return NativePrepare(processor, NativeDialogue(processor), writing, views)
