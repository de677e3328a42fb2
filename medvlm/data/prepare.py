"""Prepares samples for training and questions for a model: pixels go through the declared preprocessing, questions
through the chat template. ComposedPrepare is for models built from encoders, NativePrepare for pretrained ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Batch, Question, Sample, Truth
from medvlm.core.tasks import find_task
from medvlm.core.turns import (
    Message,
    has_places,
    list_asked,
    list_dialogues,
    list_turns,
    state_pixels,
    write_messages,
)
from medvlm.data.dialogue import TokenSequence, Turn
from medvlm.data.order import draw
from medvlm.tasks._writing import Writing

if TYPE_CHECKING:
    import numpy as np


LookedAt = tuple[Sample, Mapping[str, Any]]
AddContext = Callable[[Question, LookedAt | None], Question]


@dataclass(frozen=True)
class Seen:
    """A sample's media as the model perceives them. canvas: of medium 0; None without media, or if boxes cannot be
    placed on it. groups: for each medium of the sample, the number of pictures that it is shown as. looked_at: the
    sample with its files, bytes or arrays, for what looks at it besides the model; None in a plan."""

    media: list[tuple[str, Any]]
    canvas: Canvas | None
    groups: Sequence[int] = ()
    looked_at: LookedAt | None = None


class Prepare(Protocol):
    """The data path of a composition: the same in training, evaluation, chat and, without pixels, in a plan."""

    @property
    def is_slow(self) -> bool:
        """Whether preparing a sample takes up to a tenth of a second. Then a plan prepares only a few."""

    @property
    def boxes(self) -> Writing:
        """How boxes are written in answers."""

    @property
    def context(self) -> AddContext | None:
        """What is known about a question is added to it, if it is not None."""

    @property
    def shares_rows(self) -> bool:
        """Whether several documents may be in one row."""

    @property
    def shares_before_media(self) -> bool:
        """Whether answers that share a prompt may have media of their own."""

    @property
    def media_ids(self) -> frozenset[int]:
        """The ids of tokens that stand for media, or for their beginnings and ends. Raises RecipeError for a model of
        which only answers can be trained."""

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

    def show(self, sample: Sample, files: Mapping[str, Any]) -> list[list[np.ndarray]]:
        """Each medium as 8-bit pictures, for the processor of another program that computes the same model. Raises
        DataError for a medium that is not shown as pictures."""

    def estimate(self, knows_words: bool) -> Prepare:
        """The same for a plan, which reads no files: pixels have sizes but no values. knows_words: whether the
        tokenizer is the model's own; else the length of a text is estimated from its number of characters."""


class Phrases(Protocol):
    """Formats a dialogue with a chat template."""

    def converse(self, messages: Sequence[Message], pictures: Sequence[Any]) -> Turn:
        """messages: up to a question, or up to its answer. pictures: what stands for each picture, in order."""


def ask(
    prepare: Prepare, dialogue: Phrases, sample: Sample, question: Question, seen: Seen, pictures: Sequence[Any],
    shows: Sequence[str], answered: bool,
) -> Turn:  # fmt: skip
    """A question about a sample, after the turns before it, with the report and the pictures if `shows` names them.
    pictures: what stands for each picture of `seen`."""
    if prepare.context:
        question = prepare.context(question, seen.looked_at if "media" in shows else None)
    waiting = iter(pictures)
    own = [[next(waiting) for _ in range(count)] for count in seen.groups] if "media" in shows else []
    report = sample.report if "report" in shows else ""
    messages, shown = write_messages(
        state_pixels(question, sample.media, seen.canvas),
        own,
        lambda turn: prepare.truth(turn, seen.canvas).answer,
        report,
        answered,
    )
    return dialogue.converse(messages, shown)


def weigh_answers(questions: Sequence[Question]) -> list[list[float]]:
    """The weights of the answers of each dialogue. Raises DataError if nothing is trained."""
    weights = [[turn.weight for turn in list_turns(question)] for question in questions]
    if not any(weight for each in weights for weight in each):
        raise DataError(f"{questions[0].template}: no answer of the dialogue is trained, by the weights of its data")
    return weights


def place_truth(question: Question, canvas: Canvas | None, boxes: Writing) -> Truth:
    """See Prepare.truth. boxes: how they are written."""
    try:
        return find_task(question.truth.task).place(question.truth, canvas, boxes)
    except DataError as reason:
        raise DataError(f"{question.template}: {reason}") from None


def choose(sample: Sample, tasks: Sequence[str], count: int, epoch: int, *key: int | str) -> list[Question]:
    """`count` questions of these tasks (all tasks if empty), each with the turns before it. Consecutive epochs go
    through all of them in turn."""
    asked = [q for q in list_asked(sample) if not tasks or q.truth.task in tasks]
    return _take_turns(sample, asked, tasks, count, epoch, *key)


def choose_dialogues(
    sample: Sample,
    tasks: Sequence[str],
    weigh: Callable[[Question], float],
    count: int,
    epoch: int,
    *key: int | str,
) -> list[Question]:
    """The same for training: whole dialogues, of which a model reads one at a time, up to the last trained turn of
    these tasks. weigh: the weight of a turn's answer. Turns of other tasks have the weight 0."""
    found = []
    for question in list_dialogues(sample):
        turns = [
            replace(turn, weight=weigh(turn) if not tasks or turn.truth.task in tasks else 0.0)
            for turn in list_turns(question)
        ]
        while turns and not turns[-1].weight:
            turns.pop()
        if turns:
            found.append(replace(turns[-1], before=tuple(turns[:-1])))
    chosen = _take_turns(sample, found, tasks, count, epoch, *key)
    return chosen[:1] if has_places(chosen[0]) else [q for q in chosen if not has_places(q)]


def _take_turns(
    sample: Sample, asked: Sequence[Question], tasks: Sequence[str], count: int, epoch: int, *key: int | str
) -> list[Question]:
    if not asked:
        raise DataError(f"{sample.source}/{sample.key}: has no question of {', '.join(tasks) or 'any task'}")
    order = draw(*key, sample.key).permutation(len(asked))
    return [asked[order[(epoch * count + i) % len(asked)]] for i in range(min(count, len(asked)))]
