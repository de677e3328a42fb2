"""Dialogues: questions of a sample that follow each other, and what is said in which order.

The turns of a dialogue are consecutive questions of a sample, numbered from 1 (`Question.turn`). A dialogue ends where
the numbers do not go on, so that a turn that is left out takes the later ones with it. In the texts, MEDIUM marks where
the sample's media stand, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Medium, Question, Sample
from medvlm.core.tasks import find_task
from medvlm.core.text import MEDIUM, PIXEL_MM

SHOWN = "<image>"
"""How MEDIUM is shown to people."""


@dataclass(frozen=True)
class Message:
    """parts: texts, and None for each picture."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | None, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if part is not None)


def list_asked(sample: Sample) -> tuple[Question, ...]:
    """The questions of a sample, each with the turns before it. Those whose answer is not to be trained are not asked
    either."""
    return tuple(turns[-1] for turns in _walk(sample) if turns[-1].weight)


def list_dialogues(sample: Sample) -> tuple[Question, ...]:
    """The last question of each dialogue, with the turns before it; questions by themselves are dialogues of one."""
    every = list(_walk(sample))
    lengths = [*map(len, every[1:]), 0]
    return tuple(turns[-1] for turns, later in zip(every, lengths, strict=False) if later != len(turns) + 1)


def _walk(sample: Sample) -> Iterator[tuple[Question, ...]]:
    turns: tuple[Question, ...] = ()
    for question in sample.questions:
        if question.turn == 0:
            turns = ()
            yield (question,)
        elif question.turn == len(turns) + 1 or question.turn == 1:
            turns = (*turns, question) if question.turn > 1 else (question,)
            yield (*turns[:-1], replace(question, before=turns[:-1]))
        else:
            turns = ()


def list_turns(question: Question) -> tuple[Question, ...]:
    return (*question.before, question)


def has_places(question: Question) -> bool:
    """Whether the texts say where media stand. Otherwise they stand before the question."""
    return question.turn > 0 or MEDIUM in question.text


def count_places(question: Question) -> int:
    return sum(turn.text.count(MEDIUM) for turn in list_turns(question))


def show_until(sample: Sample, question: Question) -> Sample:
    """The sample with only the media that have been shown when this question is asked."""
    if not has_places(question) or (count := count_places(question)) >= len(sample.media):
        return sample
    return replace(sample, media=sample.media[:count])


def tell(question: Question) -> str:
    """What was said, for people: earlier turns, and the question."""
    said = [f"{turn.text}\n{write_answer(turn)}\n\n" for turn in question.before]
    return "".join([*said, question.text]).replace(MEDIUM, SHOWN)


def state_pixels(question: Question, media: Sequence[Medium], canvas: Canvas | None) -> Question:
    """The question, with the size of a pixel that the model sees of the first medium in place of PIXEL_MM: width x
    height in mm, by the scale of its contents and not that of a canvas with padding.

    Raises DataError if that is not known."""
    turns = list_turns(question)
    if not any(PIXEL_MM in turn.text for turn in turns):
        return question
    if not media or media[0].spacing_mm is None or canvas is None:
        raise DataError(f"{question.template}: its text has {PIXEL_MM}, but the spacing of what is shown is not known")
    height_mm, width_mm = canvas.convert_spacing_mm(media[0].spacing_mm[-len(canvas.size) :])[-2:]
    *before, last = (
        replace(turn, text=turn.text.replace(PIXEL_MM, f"{width_mm:.3g} x {height_mm:.3g} mm")) for turn in turns
    )
    return replace(last, before=tuple(before))


def write_answer(turn: Question) -> str:
    """The right answer in words, with coordinates as stored."""
    return turn.truth.answer or str(find_task(turn.truth.task).write(turn.truth))


def write_messages(
    question: Question,
    pictures: Sequence[Sequence[Any]],
    answer_of: Callable[[Question], str] = write_answer,
    report: str = "",
    is_answered: bool = False,
) -> tuple[tuple[Message, ...], list[Any]]:
    """The messages up to a question, or up to its answer; and the pictures in them, in order.

    pictures: of each medium. If there are fewer media than places, the last places stay empty; further media are not
    shown. report: text above the first question."""
    turns, waiting = list_turns(question), iter(pictures)
    messages, shown = [], list[Any]()
    if turns[0].system:
        messages.append(Message("system", (turns[0].system,)))
    for number, turn in enumerate(turns):
        text = f"{report}\n{turn.text}" if report and not number else turn.text
        first, *others = text.split(MEDIUM)
        parts: list[str | None] = [first]
        if not has_places(turn):
            shown += (own := [picture for medium in waiting for picture in medium])
            parts = [*[None] * len(own), first]
        for other in others:
            own = list(next(waiting, ()))
            shown += own
            parts += [*[None] * len(own), other]
        messages.append(Message("user", tuple(part for part in parts if part != "")))
        if number < len(turns) - 1 or is_answered:
            before, after = turn.around
            messages.append(Message("assistant", (f"{before}{answer_of(turn)}{after}",)))
    return tuple(messages), shown


def check_places(sample: Sample) -> None:
    """Raises DataError for dialogues with another number of places than the sample has media."""
    for question in list_dialogues(sample):
        if has_places(question) and (count := count_places(question)) != len(sample.media):
            raise DataError(f"its text has {count} places for images, and it has {len(sample.media)} of them")
