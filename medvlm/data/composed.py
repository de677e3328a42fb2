"""Prepares samples for models composed of encoders: each medium goes to the encoder that serves its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medvlm.core.contracts import Preprocess
from medvlm.core.decoder_config import TEXT_FORMS, DecoderConfig, PromptedConfig
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.geometry import Canvas, join_canvases
from medvlm.core.sample import Batch, Medium, Question, Sample, Truth
from medvlm.core.tasks import find_task
from medvlm.data.dialogue import Dialogue, TokenSequence, Turn, join_turns
from medvlm.data.encoded import split_prompts
from medvlm.data.estimate import BlankTransform, EstimatedDialogue, is_deep, make_blank_labels
from medvlm.data.prepare import AddContext, Prepare, Seen, ask, place_truth, weigh_answers
from medvlm.data.rows import collate
from medvlm.data.steps import deepen, place_mask, plan_steps
from medvlm.data.transforms import MediaTransform, show_input, to_pictures
from medvlm.io.images import decode
from medvlm.io.masks import decode_mask
from medvlm.tasks._writing import Writing

Transform = Callable[[Any, str, Medium], tuple[torch.Tensor, Canvas | None]]


@dataclass(frozen=True)
class ComposedPrepare:
    """preprocess: encoder -> its preprocessing. transforms: the same as functions. routes: kind of medium -> encoder.
    dialogue: None for a model that answers no questions. image_tokens: encoder -> tokens per medium in the language
    model. boxes: how they are written. shares_rows: False for a model whose encoder reads a prompt and whose decoder
    writes the answer: a row has one prompt, with the answers to it."""

    preprocess: Mapping[str, Preprocess]
    transforms: Mapping[str, Transform]
    routes: Mapping[str, str]
    dialogue: Dialogue | EstimatedDialogue | None
    image_tokens: Mapping[str, int]
    boxes: Writing
    is_slow: bool = False
    is_estimate: bool = False
    """For a plan: no file is read."""
    shares_rows: bool = True
    context: AddContext | None = None

    @property
    def shares_before_media(self) -> bool:
        return self.shares_rows

    @property
    def media_ids(self) -> frozenset[int]:
        assert self.dialogue is not None
        if not self.shares_rows:
            raise RecipeError("loss: all: an encoder reads the prompts of this model; only answers can be trained")
        return frozenset({self.dialogue.image_id})

    def takes(self, kind: str) -> bool:
        return kind in self.routes

    def kind_of(self, axes: int, asked: str = "") -> str:
        """The first kind whose encoder takes this number of axes. One of volumes takes pictures too, see deepen()."""
        sizes = {kind: self.preprocess[name] for kind, name in self.routes.items()}
        fitting = [kind for kind, each in sizes.items() if len(each.size) == axes]
        if axes == 2 and not fitting:
            fitting = [kind for kind, each in sizes.items() if each.spacing_mm is None]
        fitting.sort(key=lambda kind: is_deep(kind) != (axes == 3))
        served = f"its encoders serve {', '.join(self.routes)}"
        if asked and asked not in self.routes:
            raise DataError(f"--kind {asked}: no encoder serves it ({served})")
        if not asked and not fitting:
            raise DataError(f"no encoder of this model takes {'volumes' if axes == 3 else 'films'} ({served})")
        return asked or fitting[0]

    def find_encoder(self, sample: Sample) -> str | None:
        """The encoder of the first medium; None without one."""
        return self.routes.get(sample.media[0].kind) if sample.media else None

    def see(self, sample: Sample, files: Mapping[str, Any], scale: float = 1.0) -> Seen:
        """If an encoder takes several radiographs as one input, those of a sample are stacked at the position of the
        first.

        scale: always 1, since encoders have a fixed size. Raises DataError for more radiographs than fit the input."""
        assert scale == 1.0, scale
        media: list[tuple[str, Any]] = []
        canvases, stacks, groups = list[Canvas | None](), dict[str, list[Any]](), list[int]()
        for medium in sample.media:
            if medium.kind not in self.routes:
                raise DataError(
                    f"{sample.source}/{sample.key}: no encoder serves media of kind {medium.kind!r} (the encoders serve"
                    f" {', '.join(self.routes)})"
                )
            name = self.routes[medium.kind]
            pixels, drawn_on = self.transforms[name](files[medium.member], medium.member, medium)
            canvases.append(drawn_on)
            groups.append(0 if name in stacks else 1)
            if self.preprocess[name].stack > 1:
                if name not in stacks:
                    media.append((name, None))
                stacks.setdefault(name, []).append(pixels)
            else:
                media.append((name, pixels))
        return Seen(
            [(name, self._stack(name, stacks[name], sample) if pixels is None else pixels) for name, pixels in media],
            join_canvases(canvases),
            groups,
            None if self.is_estimate else (sample, files),
        )

    def _stack(self, name: str, films: list[Any], sample: Sample) -> Any:
        """[C, stack, H, W]. If there are fewer, the last one is repeated in front (as Libra does for a missing
        prior)."""
        size = self.preprocess[name].stack
        if len(films) > size:
            raise DataError(
                f"{sample.source}/{sample.key}: has {len(films)} media for encoders.{name}, which takes at most {size};"
                " raise its `stack`, or leave some out in the card"
            )
        return torch.stack([films[-1]] * (size - len(films)) + films, 1)

    def truth(self, question: Question, canvas: Canvas | None) -> Truth:
        return place_truth(question, canvas, self.boxes)

    def hold(self, sample: Sample, question: Question, files: Mapping[str, Any]) -> Truth:
        """The same as truth(), with its masks placed on the canvas that the model sees."""
        truth = self.truth(question, self.see(sample, files).canvas)
        return find_task(truth.task).hold(truth, self._masks(sample, truth, files), self._find_spacing(sample, truth))

    def _find_spacing(self, sample: Sample, truth: Truth) -> tuple[float, ...] | None:
        """Of medium 0 as the model sees it, for a truth with masks; None if unknown."""
        if not truth.members:
            return None
        preprocess = self.preprocess[self.routes[sample.media[0].kind]]
        medium = deepen(sample.media[0], preprocess)
        if medium.spacing_mm is None:
            return None
        new = plan_steps(medium.size, medium.spacing_mm, preprocess, medium.member).resized
        return tuple(mm * n / side for mm, n, side in zip(medium.spacing_mm, medium.size, new, strict=True))

    def labels(
        self,
        sample: Sample,
        question: Question,
        files: Mapping[str, Any],
        decoder: DecoderConfig,
        canvas: Canvas | None = None,
    ) -> np.ndarray:
        """The target of a decoder for a question: int64, see core/decoder_config.py. canvas: that see() gave.

        Raises DataError for a question that the decoder cannot answer."""
        truth, task = question.truth, find_task(question.truth.task)
        if self.is_estimate:
            return make_blank_labels(decoder, self.preprocess[self.routes[sample.media[0].kind]].size)
        try:
            if task.target is None:
                raise DataError(f"decoders cannot answer task {truth.task!r}; a language model can")
            if task.NEEDS_CANVAS and not truth.members:
                truth = task.place(truth, canvas, self.boxes)
            return task.target(truth, self._masks(sample, truth, files), decoder.classes, decoder.exclusive)
        except DataError as reason:
            raise DataError(f"{question.template}: {reason}") from None

    def list_objects(
        self, sample: Sample, question: Question, files: Mapping[str, Any], decoder: PromptedConfig, form: str = "box"
    ) -> Sequence[tuple[int, np.ndarray]]:
        """What a question marks, for a decoder that takes prompts: of each object the number of its class, and int64
        [*size] of 0, 1 and MISSING. form: of the prompt; `class` shows all of a class as one, and texts also classes
        that are not there. Raises DataError for a question without masks, and for one in its own words about several
        classes."""
        truth, task = question.truth, find_task(question.truth.task)
        if self.is_estimate:
            size = self.preprocess[self.routes[sample.media[0].kind]].size
            return [(0, np.ones(size, np.int64))] * decoder.objects
        if task.list_objects is None:
            raise DataError(f"{question.template}: task {truth.task!r} marks no objects, which prompts are drawn from")
        is_text = form in TEXT_FORMS
        try:
            masks = self._masks(sample, truth, files)
            found = task.list_objects(truth, masks, decoder.classes, is_text or form == "class", is_text)
        except DataError as reason:
            raise DataError(f"{question.template}: {reason}") from None
        if form == "question" and len(found) > 1:
            raise DataError(
                f"{question.template}: its mask is of {len(found)} classes, and the words of the question ask for one;"
                " ask for each in a question of its own, or use prompts of form `text`"
            )
        return found

    def _masks(self, sample: Sample, truth: Truth, files: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Member -> the mask, placed on the canvas that the model sees of medium 0. files: bytes or arrays."""
        if not truth.members:
            return {}
        medium = sample.media[0]
        preprocess = self.preprocess[self.routes[medium.kind]]
        found = {}
        for member in truth.members:
            stored = files[member]
            mask = decode_mask(stored, member) if isinstance(stored, bytes) else stored
            found[member] = place_mask(mask, member, medium, preprocess)
        return found

    def turn(self, sample: Sample, question: Question, seen: Seen, shows: Sequence[str], answered: bool) -> Turn:
        if self.dialogue is None:
            raise DataError("this model has no language model, so it cannot answer questions")
        pictures = [self.image_tokens[name] for name, _ in seen.media]
        return ask(self, self.dialogue, sample, question, seen, pictures, shows, answered)

    def document(
        self, sample: Sample, questions: Sequence[Question], seen: Seen, shows: Sequence[str], answered: bool = True
    ) -> TokenSequence:
        turns = [self.turn(sample, question, seen, shows, answered) for question in questions]
        media = seen.media if "media" in shows else []
        return join_turns(sample.key, turns, media, weigh_answers(questions) if answered else ())

    def num_image_tokens(self, seen: Seen) -> int:
        return sum(self.image_tokens[name] for name, _ in seen.media)

    def collate(self, documents: Sequence[TokenSequence], pad_id: int, pack: bool = True, width: int = 0) -> Batch:
        if self.shares_rows or self.dialogue is None:
            return collate(documents, self.image_tokens, pad_id, pack, width=width)
        split = [part for d in documents for part in split_prompts(d, self.dialogue.image_id, self.image_tokens)]
        return collate(split, self.image_tokens, pad_id, pack=False)

    def picture(self, sample: Sample, files: Mapping[str, Any]) -> np.ndarray:
        name, pixels = self.see(sample, files).media[0]
        return show_input(pixels, self.preprocess[name])

    def show(self, sample: Sample, files: Mapping[str, Any]) -> list[list[np.ndarray]]:
        shown = []
        for medium in sample.media:
            before = self.preprocess[self.routes[medium.kind]]
            if len(before.size) != 2:
                raise DataError(f"{sample.source}/{sample.key}: media of kind {medium.kind!r} are volumes, no pictures")
            stored = files[medium.member]
            array = decode(stored, medium.member) if isinstance(stored, bytes) else stored
            shown.append([to_pictures(array, before, medium)])
        return shown

    def resize(self, encoder: str, size: tuple[int, ...]) -> ComposedPrepare:
        """The same with another size of the input of an encoder."""
        before = self.preprocess[encoder].model_copy(update={"size": size})
        make: Any = type(self.transforms[encoder])
        return replace(
            self,
            preprocess={**self.preprocess, encoder: before},
            transforms={**self.transforms, encoder: make(before)},
        )

    def estimate(self, knows_words: bool) -> Prepare:
        dialogue = self.dialogue
        if not knows_words and isinstance(dialogue, Dialogue):
            dialogue = EstimatedDialogue(dialogue.image_id)
        blank = {name: BlankTransform(preprocess) for name, preprocess in self.preprocess.items()}
        return replace(self, transforms=blank, dialogue=dialogue, is_estimate=True)


def make_prepare(
    encoders: Mapping[str, Any],
    preprocess: Mapping[str, Preprocess],
    image_tokens: Mapping[str, int],
    dialogue: Dialogue | None,
    boxes: Writing,
) -> ComposedPrepare:
    """encoders: name -> its config. An encoder serves the kinds it lists, or the kind it is named after."""
    routes = {kind: name for name, config in encoders.items() for kind in config.serves or (name,)}
    transforms = {name: MediaTransform(each) for name, each in preprocess.items()}
    return ComposedPrepare(preprocess, transforms, routes, dialogue, image_tokens, boxes)
