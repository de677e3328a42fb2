"""What a task offers (a file of medvlm/tasks, or a module of a plugin), and how it is found by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from pydantic import AfterValidator

from medvlm.core import config, sample
from medvlm.core.config import KindName, Slot, component, is_available, kinds
from medvlm.core.errors import DataError, RecipeError, did_you_mean
from medvlm.core.measure import Measure
from medvlm.core.sample import Box, Medium

if TYPE_CHECKING:
    import numpy as np

    from medvlm.core.geometry import Canvas

_FIRST = "choice, open, count, boxes, report"
FIRST_TASKS = tuple(_FIRST.split(", "))
"""The tasks of the first version, in its order. It decides which random numbers a made-up sample draws, which column of
a shard index of version 1 is whose, and in which order results are listed. Other tasks come after these, by name; none
is added here."""

LabelledBox = tuple[Box, str]
"""A box and what it is called."""
MarkedMask = tuple[str, str]
"""A mask as text (one plane, see tasks/_runs.py) and what it is called."""


@dataclass(frozen=True)
class Drawing:
    """How an answer is shown beside its truth, as plain data; the report makes HTML of it.

    truth: the right answer in words. aside: what else the truth says, e.g. `not left, both` of a choice.
    summary: stands for a truth whose words are long and are drawn anyway (`12 boxes, drawn`).
    boxes: of the truth, in its coordinates; None where the task has none. found: those of the answer.
    masks: of the truth, on the canvas that the model perceives. found_masks: those of the answer.
    answer: the answer in words, where it is no text. told: the true class and the answered one, of several that exclude
    each other.
    """

    truth: str
    aside: str = ""
    summary: str = ""
    boxes: tuple[LabelledBox, ...] | None = None
    found: tuple[LabelledBox, ...] = ()
    masks: tuple[MarkedMask, ...] = ()
    found_masks: tuple[MarkedMask, ...] = ()
    answer: str = ""
    told: tuple[str, str] | None = None


class Task(Protocol):
    """A task's module. What it leaves out is as in medvlm/tasks/_base.py; None there means that it has none.

    An answer is the text of a language model, or what a decoder gives (see ANSWERED_BY).
    """

    Truth: type[sample.Truth]
    """A frozen dataclass with the fields of the right answer."""
    Config: type[config.Config]
    """`kind`, and what a data card says to make a truth of a text (see from_text)."""

    ANSWERED_BY: str
    """`text`: a language model writes the answer. `scores`, `maps`: a decoder with this OUTPUT gives it, as an array
    [classes] or [classes, *pixels]."""
    NEEDS_CANVAS: bool
    """The answer is written in coordinates of the image that a model sees: without media it cannot be asked."""
    FOLLOWS_CROPS: bool
    """Whether a part of an image still has a right answer; other questions are not asked after a crop."""
    FREE_TEXT: bool
    """Answers are texts of many words, of which hardly two are equal; they are not counted, and may identify people."""
    TITLE: str
    """What the report calls the group of its measures; by default the group's name."""

    MEASURES: tuple[Measure, ...]
    EXAMPLES: list[tuple[Any, sample.Truth, float]]
    """(answer, truth, score): right, wrong, and attempts to cheat. They are its tests."""

    score: Callable[[Any, sample.Truth], float] | None
    """In [0, 1]; 0 for what cannot be read. It is the reward and what the gallery of the report marks. Without it the
    task is trained but not asked in evaluation."""
    is_formatted: Callable[[str, sample.Truth], bool] | None
    """Whether a text, without blanks around it, has the form that the question asks for, right or wrong."""
    best_constant: Callable[[Sequence[sample.Truth], Measure | None], Any] | None
    """The best answer that looks at nothing, for a measure (None: for the first of MEASURES). truths: at least one, as
    placed."""
    list_choices: Callable[[Any], Sequence[Any]] | None
    """The answers that a guess chooses from, where the question names them."""
    example: Callable[[np.random.Generator, Sequence[Medium], str], tuple[str, sample.Truth] | None] | None
    """(rng, media, report) -> a made-up question about a made-up sample and its truth, for rehearsals; None where the
    media do not allow one."""
    from_text: Callable[[str, Any], sample.Truth | None] | None
    """(text, Config) -> the truth that a text of an archive says, None where it says none."""

    target: Callable[[sample.Truth, Mapping[str, np.ndarray], Sequence[str], bool], np.ndarray] | None
    """(truth, masks, classes, exclusive) -> what a decoder of these classes is trained on, int64 of 0, 1, ... and
    MISSING: [] or [*size] of exclusive classes, else [K] or [K, *size] (see core/decoder_config.py). masks: its
    members, placed on the canvas. Raises DataError where the truth does not say it. Only of what decoders answer, as
    the next two."""
    decode: Callable[[np.ndarray, sample.Truth, Sequence[str], bool], Any] | None
    """(probabilities, truth, classes, exclusive) -> the answer of a decoder of these classes, as plain data."""
    make_labelled: (
        Callable[
            [np.random.Generator, Sequence[Medium], Sequence[str], bool],
            tuple[str, sample.Truth, dict[str, np.ndarray]] | None,
        ]
        | None
    )
    """(rng, media, classes, exclusive) -> a made-up question for a decoder, its truth and its members, for rehearsals;
    None where the media do not allow one."""

    def write(self, truth: sample.Truth) -> str:
        """The right answer as a language model should write it. truth: as placed."""

    def parse(self, text: str, truth: sample.Truth) -> Any:
        """What a text answers; None where it cannot be read."""

    def check(self, truth: sample.Truth, media: Sequence[Medium]) -> None:
        """Raises DataError for a truth that does not fit the media of its sample."""

    def has_coordinates(self, truth: sample.Truth) -> bool:
        """Whether `place` changes it."""

    def place(self, truth: sample.Truth, canvas: Canvas | None, writing: Any) -> sample.Truth:
        """From stored pixels to what the model perceives. canvas: None where media are not shown as they are stored.
        writing: how coordinates are written (medvlm/tasks/_writing.py). Raises DataError where nothing of the answer
        can be seen."""

    def hold(self, truth: sample.Truth, masks: Mapping[str, np.ndarray]) -> sample.Truth:
        """With what its members hold, as it can be stored with the answers. masks: placed on the canvas. Raises
        DataError where they are not what the truth says."""

    def check_crop(self, truth: sample.Truth) -> None:
        """Raises DataError where a part of the image has another answer that the truth does not hold. Of a task that
        FOLLOWS_CROPS."""

    def follow(self, truth: sample.Truth, canvas: Canvas) -> sample.Truth | None:
        """After stored pixels were cropped, shifted, flipped or turned as the canvas says; None where nothing is left
        to ask."""

    def summarise(self, truth: sample.Truth) -> str:
        """In a few words, to be counted."""

    def describe(self, answer: Any, truth: sample.Truth) -> Drawing:
        """answer: None to draw the truth alone."""


def list_tasks() -> tuple[str, ...]:
    """The tasks of medvlm, in an order that does not change when one is added."""
    return (*FIRST_TASKS, *(kind for kind in kinds("tasks") if kind not in FIRST_TASKS))


def list_text_tasks() -> tuple[str, ...]:
    """Those that a language model answers."""
    return tuple(kind for kind in list_tasks() if find_task(kind).ANSWERED_BY == "text")


def _check_text_task(kind: str) -> str:
    if find_task(kind).ANSWERED_BY != "text":
        raise ValueError(
            f"{kind!r} is answered by a decoder and not in text (answered in text: {', '.join(list_text_tasks())})"
        )
    return kind


TextTask = Annotated[str, KindName("tasks"), AfterValidator(_check_text_task)]
"""The name of a task that a language model answers."""


@cache
def find_task(kind: str) -> Task:
    """Raises DataError for a task that is not installed or not permitted: a shard or a record names it."""
    if "." not in kind and kind not in kinds("tasks"):
        raise DataError(
            f"task {kind!r} is not known{did_you_mean(kind, list_tasks())} (there are {', '.join(list_tasks())}); leave"
            " its questions out, or install the version or the package that has it"
        )
    try:
        module = component("tasks", kind)
    except RecipeError as reason:
        raise DataError(f"a question of task {reason}") from None
    except ImportError as reason:
        raise DataError(f"task {kind!r} cannot be imported ({reason}); install the package that holds it") from None
    base = importlib.import_module("medvlm.tasks._base")
    return cast(Task, SimpleNamespace(**{**vars(base), **vars(module)}))


def read_truth(task: Any, text: str) -> sample.Truth | None:
    """What a text of an archive says. task: of a card, see CardTask; None where it says nothing."""
    kind = task if isinstance(task, str) else task.kind
    found = find_task(kind)
    assert found.from_text is not None, kind
    return found.from_text(text, found.Config.model_validate({"kind": kind}) if isinstance(task, str) else task)


def _check_card_task(task: Any) -> Any:
    kind = task if isinstance(task, str) else task.kind
    found = find_task(kind)
    if found.from_text is None:
        raise ValueError(f"task {kind!r} cannot be made of a text of an archive")
    required = [name for name, each in found.Config.model_fields.items() if each.is_required() and name != "kind"]
    if isinstance(task, str) and required:
        raise ValueError(f"task {kind!r} needs settings; write {{kind: {kind}, {required[0]}: ...}}")
    return task


CardTask = Annotated[Any, Slot("tasks", or_name=True), AfterValidator(_check_card_task)]
"""The `task` of a question in a data card: its kind, or its kind with settings."""


def check_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    """The same. Raises DataError for two that task `choice` reads alike, naming both."""
    truth = sample.make_truth("choice", choices=choices)
    find_task(truth.task).check(truth, ())
    return choices


def _check_card_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return check_choices(choices)
    except DataError as reason:
        raise ValueError(str(reason)) from None


Choices = Annotated[tuple[str, ...], AfterValidator(_check_card_choices)]
"""The `choices` of a question in a data card, each of which can be told from the others."""


def is_scored(truth: sample.Truth) -> bool:
    """Whether a text can answer its question and be judged; not so for a task that is not known here."""
    if not is_available("tasks", truth.task):
        return False
    task = find_task(truth.task)
    return task.score is not None and task.ANSWERED_BY == "text"
