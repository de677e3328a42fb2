"""A sample to what a stage trains on: pixels through the declared preprocessing, questions through the chat
template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Batch, Question, Sample, Truth
from medvlm.core.tasks import find_task
from medvlm.data.dialogue import Dialogue, Document, Turn, document
from medvlm.data.order import draw
from medvlm.data.rows import collate
from medvlm.data.transforms import MediaTransform, perceived
from medvlm.tasks._writing import Writing

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Seen:
    """A sample's media as the model perceives them. canvas: of medium 0, None without media, or where boxes cannot be
    placed on it."""

    media: list[tuple[str, Any]]
    canvas: Canvas | None


@dataclass(frozen=True)
class Prepare:
    """transforms: encoder -> its preprocessing. routes: kind of medium -> encoder. image_tokens: encoder -> tokens
    per medium in the language model. boxes: how they are written."""

    transforms: Mapping[str, MediaTransform]
    routes: Mapping[str, str]
    dialogue: Dialogue | None
    image_tokens: Mapping[str, int]
    boxes: Writing

    def see(self, sample: Sample, files: Mapping[str, Any], scale: float = 1.0) -> Seen:
        """Where an encoder takes several films as one input, those of a sample are stacked in the place of the first.

        scale: of the sides of all images, for models that take any size; encoders have one size, so here it is 1.
        Raises DataError for a medium that no encoder serves or that cannot be decoded, and for more films than an input
        has."""
        assert scale == 1.0, scale
        media: list[tuple[str, Any]] = []
        canvas, stacks = None, dict[str, list[Any]]()
        for number, medium in enumerate(sample.media):
            if medium.kind not in self.routes:
                raise DataError(
                    f"{sample.source}/{sample.key}: no encoder serves media of kind {medium.kind!r} (there are"
                    f" {', '.join(self.routes)})"
                )
            name = self.routes[medium.kind]
            pixels, drawn_on = self.transforms[name](files[medium.member], medium.member, medium)
            canvas = drawn_on if number == 0 else canvas
            if self.transforms[name].preprocess.stack > 1:
                if name not in stacks:
                    media.append((name, None))
                stacks.setdefault(name, []).append(pixels)
            else:
                media.append((name, pixels))
        return Seen(
            [(name, self._stacked(name, stacks[name], sample) if pixels is None else pixels) for name, pixels in media],
            canvas,
        )

    def _stacked(self, name: str, films: list[Any], sample: Sample) -> Any:
        """[C, stack, H, W]; where there are fewer films, the last one also stands in front (Libra's missing prior)."""
        size = self.transforms[name].preprocess.stack
        if len(films) > size:
            raise DataError(
                f"{sample.source}/{sample.key}: has {len(films)} media for encoders.{name}, which takes {size} as one"
                " input; raise its `stack`, or leave some out in the card"
            )
        return torch.stack([films[-1]] * (size - len(films)) + films, 1)

    def truth(self, question: Question, canvas: Canvas | None) -> Truth:
        """The truth as the model perceives it: coordinates in the units they are written in.

        Raises DataError when nothing of the answer lies on the canvas.
        """
        try:
            return find_task(question.truth.task).place(question.truth, canvas, self.boxes)
        except DataError as reason:
            raise DataError(f"{question.template}: {reason}") from None

    def turn(self, sample: Sample, question: Question, seen: Seen, shows: Sequence[str], answered: bool) -> Turn:
        """shows: `media` and/or `report`: what the model is given beside the question."""
        if self.dialogue is None:
            raise DataError("this recipe has no language model, so nothing can be asked")
        text = f"{sample.report}\n{question.text}" if "report" in shows else question.text
        return self.dialogue.turn(
            text,
            self.expansions(seen) if "media" in shows else [],
            self.truth(question, seen.canvas).answer if answered else None,
        )

    def document(
        self, sample: Sample, questions: Sequence[Question], seen: Seen, shows: Sequence[str], answered: bool = True
    ) -> Document:
        turns = [self.turn(sample, question, seen, shows, answered) for question in questions]
        return document(sample.key, turns, seen.media if "media" in shows else [])

    def expansions(self, seen: Seen) -> Sequence[Any]:
        """What the dialogue puts in the place of each image: here the number of its tokens."""
        return [self.image_tokens[name] for name, _ in seen.media]

    def num_image_tokens(self, seen: Seen) -> int:
        return sum(self.image_tokens[name] for name, _ in seen.media)

    def collate(self, documents: Sequence[Document], pad_id: int, pack: bool = True) -> Batch:
        """pack: several documents in a row where they fit; off for generation."""
        return collate(documents, self.image_tokens, pad_id, pack)

    def picture(self, sample: Sample, files: Mapping[str, Any]) -> np.ndarray:
        """What the model sees of medium 0, 8-bit [H, W] or [H, W, 3]: a film whole, of a volume the middle slice."""
        name, pixels = self.see(sample, files).media[0]
        return perceived(pixels, self.transforms[name].preprocess)


def make_prepare(
    encoders: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    image_tokens: Mapping[str, int],
    dialogue: Dialogue | None,
    boxes: Writing,
) -> Prepare:
    """encoders: name -> its config. An encoder serves the kinds it lists, or the kind it is named after."""
    routes = {kind: name for name, config in encoders.items() for kind in config.serves or (name,)}
    return Prepare({name: MediaTransform(p) for name, p in preprocess.items()}, routes, dialogue, image_tokens, boxes)


def choose(sample: Sample, tasks: Sequence[str], count: int, epoch: int, *key: int | str) -> list[Question]:
    """`count` questions of these tasks (all tasks when empty), so that one epoch after the other goes round all of
    them."""
    asked = [q for q in sample.questions if not tasks or q.truth.task in tasks]
    if not asked:
        raise DataError(f"{sample.source}/{sample.key}: has no question of {', '.join(tasks) or 'any task'}")
    order = draw(*key, sample.key).permutation(len(asked))
    return [asked[order[(epoch * count + i) % len(asked)]] for i in range(min(count, len(asked)))]
