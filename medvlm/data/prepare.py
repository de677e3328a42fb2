"""Prepares samples for training and questions for a model: pixels go through the declared preprocessing, questions
through the chat template. ComposedPrepare is for models built from encoders, NativePrepare for pretrained ones."""

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
        """Whether preparing a sample takes up to a tenth of a second. Then a plan prepares only a few."""

    @property
    def boxes(self) -> Writing:
        """How boxes are written in answers."""

    @property
    def shares_rows(self) -> bool:
        """Whether several documents may be in one row."""

    def takes(self, kind: str) -> bool:
        """Whether the model takes media of this kind."""

    def kind_of(self, axes: int, asked: str = "") -> str:
        """The kind of medium to assume for a file without one. axes: 2 for a picture, 3 for a volume. asked: the kind
        that the user names.

        Raises DataError if the model does not take such media."""

    def see(self, sample: Sample, files: Mapping[str, Any], scale: float = 1.0) -> Seen:
        """scale: factor for the sides of all images, for models that take images of any size.

        Raises DataError for a medium that the model does not take or that cannot be decoded."""

    def truth(self, question: Question, canvas: Canvas | None) -> Truth:
        """The truth as the model perceives it, with coordinates in the units that they are written in.

        Raises DataError if no part of the answer is on the canvas."""

    def turn(self, sample: Sample, question: Question, seen: Seen, shows: Sequence[str], answered: bool) -> Turn:
        """shows: `media` and/or `report`, which the model is given with the question. answered: include the answer."""

    def document(
        self, sample: Sample, questions: Sequence[Question], seen: Seen, shows: Sequence[str], answered: bool = True
    ) -> TokenSequence:
        """The questions about one sample, which share its media."""

    def num_image_tokens(self, seen: Seen) -> int: ...

    def collate(self, documents: Sequence[TokenSequence], pad_id: int, pack: bool = True, width: int = 0) -> Batch:
        """pack: put several documents in a row if they fit; off for generation. width: of a row, if it is more than the
        longest document."""

    def picture(self, sample: Sample, files: Mapping[str, Any]) -> np.ndarray:
        """What the model sees of medium 0, 8-bit [H, W] or [H, W, 3]: a whole film, or the middle slice of a volume."""

    def estimate(self, knows_words: bool) -> Prepare:
        """The same for a plan, which reads no files: pixels have sizes but no values. knows_words: whether the
        tokenizer is the model's own; else the length of a text is estimated from its number of characters."""


class Phrases(Protocol):
    """Formats a question with a chat template."""

    def turn(self, text: str, image_tokens: Sequence[Any], answer: str | None) -> Turn:
        """image_tokens: the placeholder of each image. answer: None if it is to be generated."""


def ask(
    dialogue: Phrases,
    sample: Sample,
    question: Question,
    images: Sequence[Any],
    shows: Sequence[str],
    answer: str | None,
) -> Turn:
    """One question about a sample, with its report and images if `shows` names them. answer: without what stands around
    it; None if it is to be generated."""
    text = f"{sample.report}\n{question.text}" if "report" in shows else question.text
    if answer is not None:
        before, after = question.around
        answer = f"{before}{answer}{after}"
    return dialogue.turn(text, images if "media" in shows else [], answer)


def place_truth(question: Question, canvas: Canvas | None, boxes: Writing) -> Truth:
    """See Prepare.truth. boxes: how they are written."""
    try:
        return find_task(question.truth.task).place(question.truth, canvas, boxes)
    except DataError as reason:
        raise DataError(f"{question.template}: {reason}") from None


def choose(sample: Sample, tasks: Sequence[str], count: int, epoch: int, *key: int | str) -> list[Question]:
    """`count` questions of these tasks (all tasks if empty). Consecutive epochs go through all of them in turn."""
    asked = [q for q in sample.questions if not tasks or q.truth.task in tasks]
    if not asked:
        raise DataError(f"{sample.source}/{sample.key}: has no question of {', '.join(tasks) or 'any task'}")
    order = draw(*key, sample.key).permutation(len(asked))
    return [asked[order[(epoch * count + i) % len(asked)]] for i in range(min(count, len(asked)))]
