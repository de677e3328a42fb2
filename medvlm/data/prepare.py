"""Prepares samples for training and questions for a model: pixels go through the declared preprocessing, questions
through the chat template. ComposedPrepare is for models of encoders, NativePrepare for ready-made ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Batch, Question, Sample, Truth
from medvlm.core.tasks import find_task
from medvlm.data.dialogue import TokenSequence, Turn
from medvlm.data.order import draw
from medvlm.tasks._writing import Writing

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Seen:
    """A sample's media as the model perceives them. canvas: of medium 0; None without media, or if boxes cannot be
    placed on it."""

    media: list[tuple[str, Any]]
    canvas: Canvas | None


class Prepare(Protocol):
    """The data path of a composition: the same in training, evaluation, chat and, without pixels, in a plan."""

    @property
    def is_slow(self) -> bool:
        """Whether a sample takes up to a tenth of a second, so that a plan looks at a few only."""

    @property
    def boxes(self) -> Writing:
        """How boxes are written in answers."""

    def takes(self, kind: str) -> bool:
        """Whether media of this kind are perceived."""

    def kind_of(self, axes: int, asked: str = "") -> str:
        """The kind of medium to assume for a file without one. axes: 2 for a picture, 3 for a volume. asked: by the
        user.

        Raises DataError where nothing perceives such media."""

    def see(self, sample: Sample, files: Mapping[str, Any], scale: float = 1.0) -> Seen:
        """scale: of the sides of all images, for models that take images of any size.

        Raises DataError for a medium that is not perceived or cannot be decoded."""

    def truth(self, question: Question, canvas: Canvas | None) -> Truth:
        """The truth as the model perceives it: coordinates in the units they are written in.

        Raises DataError when nothing of the answer lies on the canvas."""

    def turn(self, sample: Sample, question: Question, seen: Seen, shows: Sequence[str], answered: bool) -> Turn:
        """shows: `media` and/or `report`: what the model is given beside the question. answered: with the answer."""

    def document(
        self, sample: Sample, questions: Sequence[Question], seen: Seen, shows: Sequence[str], answered: bool = True
    ) -> TokenSequence:
        """The questions about one sample, which share its media."""

    def num_image_tokens(self, seen: Seen) -> int: ...

    def collate(self, documents: Sequence[TokenSequence], pad_id: int, pack: bool = True) -> Batch:
        """pack: several documents in a row where they fit; off for generation."""

    def picture(self, sample: Sample, files: Mapping[str, Any]) -> np.ndarray:
        """What the model sees of medium 0, 8-bit [H, W] or [H, W, 3]: a film whole, of a volume the middle slice."""

    def estimate(self, knows_words: bool) -> Prepare:
        """The same for a plan: files are not read, pixels have sizes and no values. knows_words: whether its tokenizer
        is the model's own; else the length of a text is estimated from its characters."""


class Phrases(Protocol):
    """What asks a question in the words of a chat template."""

    def turn(self, text: str, image_tokens: Sequence[Any], answer: str | None) -> Turn:
        """image_tokens: what stands for each image. answer: None where it is to be generated."""


def ask(
    dialogue: Phrases,
    sample: Sample,
    question: Question,
    images: Sequence[Any],
    shows: Sequence[str],
    answer: str | None,
) -> Turn:
    """One question about a sample, with its report and images as far as they are shown."""
    text = f"{sample.report}\n{question.text}" if "report" in shows else question.text
    return dialogue.turn(text, images if "media" in shows else [], answer)


def place_truth(question: Question, canvas: Canvas | None, boxes: Writing) -> Truth:
    """See Prepare.truth. boxes: how they are written."""
    try:
        return find_task(question.truth.task).place(question.truth, canvas, boxes)
    except DataError as reason:
        raise DataError(f"{question.template}: {reason}") from None


def choose(sample: Sample, tasks: Sequence[str], count: int, epoch: int, *key: int | str) -> list[Question]:
    """`count` questions of these tasks (all tasks when empty), so that one epoch after the other goes round all of
    them."""
    asked = [q for q in sample.questions if not tasks or q.truth.task in tasks]
    if not asked:
        raise DataError(f"{sample.source}/{sample.key}: has no question of {', '.join(tasks) or 'any task'}")
    order = draw(*key, sample.key).permutation(len(asked))
    return [asked[order[(epoch * count + i) % len(asked)]] for i in range(min(count, len(asked)))]
