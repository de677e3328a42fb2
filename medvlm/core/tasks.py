"""The interface of tasks (files of medvlm/tasks, or modules of plug-ins), and finding a task by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from pydantic import AfterValidator

from medvlm.core import config, sample
from medvlm.core.config import KindName, Slot, component, is_available, kinds
from medvlm.core.errors import DataError, RecipeError, did_you_mean, list_some
from medvlm.core.measure import Measure, OfJudge
from medvlm.core.sample import Box, Medium

if TYPE_CHECKING:
    import numpy as np

    from medvlm.core.geometry import Canvas

_FIRST = "choice, open, count, boxes, report"
FIRST_TASKS = tuple(_FIRST.split(", "))
"""The tasks of the first version, in order. Do not add any: the order determines the random numbers of made-up samples,
the columns of shard indexes of version 1, and the order of results. Other tasks follow by name."""

MAPS = "maps"
"""ANSWERED_BY of tasks whose answers are masks."""
LabelledBox = tuple[Box, str]
"""A box and its label."""
MarkedMask = tuple[str, str]
"""A mask as text (one plane, see tasks/_runs.py) and its label."""
Objects = Sequence[tuple[int, "np.ndarray"]]
"""Of each object the number of its class, and int64 [*size] of 0, 1 and MISSING."""


@dataclass(frozen=True)
class Drawing:
    """How an answer is shown next to its truth, as plain data. The report turns it into HTML.

    truth: the right answer in words. aside: more about the truth, e.g. `not left, both` for a choice. summary: replaces
    a long truth that is drawn anyway (`12 boxes, drawn`).
    boxes: of the truth, in its coordinates; None if the task has none. found: boxes of the answer.
    masks: of the truth, on the canvas that the model perceives. found_masks: masks of the answer.
    answer: the answer in words, if it is not a text. told: (true class, answered class), for exclusive classes.
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


@dataclass(frozen=True)
class Decision:
    """Whether an answer calls a class present, and whether it is. probability: in [0, 1]. threshold: of the class,
    chosen on validation samples; None for the default of 0.5, which a probability must exceed."""

    name: str
    probability: float
    is_told: bool
    is_there: bool
    threshold: float | None


class Task(Protocol):
    """The module of a task. Missing attributes have the defaults of medvlm/tasks/_base.py, where None means none.

    An answer is the text of a language model, or the output of a decoder (see ANSWERED_BY).
    """

    Truth: type[sample.Truth]
    """A frozen dataclass with the fields of the right answer."""
    Config: type[config.Config]
    """`kind`, and the settings in a data card for making a truth from a text (see from_text)."""

    ANSWERED_BY: str
    """`text`: a language model writes the answer. `scores`, `maps`: a decoder with this OUTPUT (or ANSWERS) gives it,
    as an array [classes] or [classes, *pixels]; or another form, of which decoders give arrays that `decode` takes."""
    NEEDS_CANVAS: bool
    """Whether the answer is in coordinates of the image that the model sees, so that it cannot be asked without
    media."""
    FOLLOWS_CROPS: bool
    """Whether a crop of the image still has a right answer. Other questions are not asked after a crop."""
    FOLLOWS_WARPS: bool
    """Whether its own `follow` needs no more of a canvas than `clip_box` and `size`, so that any turn or elastic change
    can be followed. A task without a `follow` follows everything."""
    IS_LONG: bool
    """Whether answers are long texts, such as reports, which the protocol `long_answers` asks for."""
    READS_THOUGHTS: bool
    """Whether thoughts in `<think>` are part of an answer. Evaluation scores other answers without them."""
    FREE_TEXT: bool
    """Whether answers are free texts, hardly ever equal. They are not counted, and may identify people."""
    TITLE: str
    """The title of its group of measures in the report; by default the name of the group."""

    MEASURES: tuple[Measure, ...]
    EXAMPLES: list[tuple[Any, sample.Truth, float]]
    """(answer, truth, score): right, wrong, and attempts to cheat. Used as tests."""

    score: Callable[[Any, sample.Truth], float] | None
    """In [0, 1]; 0 for what cannot be parsed. Used as reward, and for the gallery of the report. Without it the task is
    trained but not asked in evaluation."""
    is_formatted: Callable[[str, sample.Truth], bool] | None
    """Whether a text, stripped, has the form that the question asks for, be it right or wrong."""
    best_constant: Callable[[Sequence[sample.Truth], Measure | None], Any] | None
    """The best constant answer for a measure (None: for the first of MEASURES). truths: at least one, after `place`."""
    choose_points: Callable[[Sequence[Any], Sequence[Any]], Mapping[str, Any]] | None
    """(answers, truths) of the validation questions of one template -> operating points for measures whose columns are
    AtPoints, as plain data, e.g. class -> threshold."""
    decide: Callable[[Any, Any, Mapping[str, Any]], Sequence[Decision]] | None
    """(answer, truth, operating points) -> a decision for each class that is known, for the tables and curves of the
    report."""
    list_choices: Callable[[Any], Sequence[Any]] | None
    """The answers that a guess chooses from, if the question names them."""
    example: Callable[[np.random.Generator, Sequence[Medium], str], tuple[str, sample.Truth] | None] | None
    """(rng, media, report) -> a made-up question about a made-up sample and its truth, for dry runs; None if the media
    do not allow one."""
    from_text: Callable[[str, Any], sample.Truth | None] | None
    """(text, Config) -> the truth in a text of an archive, None if it has none."""

    target: Callable[[sample.Truth, Mapping[str, np.ndarray], Sequence[str], bool], np.ndarray] | None
    """(truth, masks, classes, exclusive) -> the label for a decoder with these classes, int64 of 0, 1, ... and MISSING:
    [] or [*size] for exclusive classes, else [K] or [K, *size] (see core/decoder_config.py); numbers are float32.
    masks: members of the truth, placed on the canvas. Raises DataError if the truth does not determine it. Only for
    tasks that decoders answer, like the next two."""
    decode: Callable[[np.ndarray, sample.Truth, Sequence[str], bool], Any] | None
    """(probabilities, truth, classes, exclusive) -> the answer of a decoder with these classes, as plain data."""
    make_labelled: (
        Callable[
            [np.random.Generator, Sequence[Medium], Sequence[str], bool],
            tuple[str, sample.Truth, dict[str, np.ndarray]] | None,
        ]
        | None
    )
    """(rng, media, classes, exclusive) -> a made-up question for a decoder, its truth and its members, for dry runs;
    None if the media do not allow one."""

    draw_marked: Callable[[sample.Truth, Mapping[str, np.ndarray], float, float], tuple[int, ...] | None] | None
    """(truth, masks, of_class, of_pixel) -> a marked pixel of stored masks, by two numbers in [0, 1): which of the
    classes that there are, and which of its pixels; None if nothing is marked."""
    list_objects: Callable[[sample.Truth, Mapping[str, np.ndarray], Sequence[str], bool, bool], Objects] | None
    """(truth, masks, classes, whole, absent) -> those of these classes, for decoders that take prompts. whole: all of a
    class as one. absent: that of a class without any pixel too. masks: placed on the canvas."""

    def write(self, truth: sample.Truth) -> str:
        """The right answer as a language model should write it. truth: after `place`."""

    def parse(self, text: str, truth: sample.Truth) -> Any:
        """The answer in a text; None if it cannot be parsed."""

    def settle(self, truth: sample.Truth, media: Sequence[Medium]) -> sample.Truth:
        """The truth with what only the media of its sample tell, such as lengths by their spacing. Called once, when a
        sample is stored. Raises DataError if they do not tell it."""

    def check(self, truth: sample.Truth, media: Sequence[Medium]) -> None:
        """Raises DataError for a truth that does not fit the media of its sample."""

    def has_coordinates(self, truth: sample.Truth) -> bool:
        """Whether `place` changes it."""

    def place(self, truth: sample.Truth, canvas: Canvas | None, writing: Any) -> sample.Truth:
        """Maps the truth from stored pixels to the canvas that the model perceives. canvas: None if media are not shown
        as stored. writing: how coordinates are written (medvlm/tasks/_writing.py). Raises DataError if nothing of the
        answer is visible."""

    def hold(
        self, truth: sample.Truth, masks: Mapping[str, np.ndarray], spacing_mm: tuple[float, ...] | None = None
    ) -> sample.Truth:
        """The truth with the contents of its members, to be stored with the answers. masks: placed on the canvas.
        spacing_mm: of the canvas, if known. Raises DataError if they do not fit the truth."""

    def check_crop(self, truth: sample.Truth) -> None:
        """Raises DataError if a crop could have another answer that the truth does not contain. For tasks with
        FOLLOWS_CROPS."""

    def follow(self, truth: sample.Truth, canvas: Canvas) -> sample.Truth | None:
        """The truth after the canvas has cropped, shifted, flipped or rotated the stored pixels; None if nothing is
        left to ask."""

    def summarise(self, truth: sample.Truth) -> str:
        """The answer in a few words, for counts."""

    def describe(self, answer: Any, truth: sample.Truth) -> Drawing:
        """answer: None to draw the truth alone."""


def list_tasks() -> tuple[str, ...]:
    """The tasks of medvlm. The order of the first ones does not change when a task is added."""
    return (*FIRST_TASKS, *(kind for kind in kinds("tasks") if kind not in FIRST_TASKS))


def list_text_tasks() -> tuple[str, ...]:
    """The tasks that a language model answers."""
    return tuple(kind for kind in list_tasks() if find_task(kind).ANSWERED_BY == "text")


def list_drawn_tasks() -> tuple[str, ...]:
    """The tasks whose answers are masks."""
    return tuple(kind for kind in list_tasks() if find_task(kind).ANSWERED_BY == MAPS)


def _check_spoken_task(kind: str) -> str:
    return kind if find_task(kind).ANSWERED_BY == MAPS else _check_text_task(kind)


def _check_text_task(kind: str) -> str:
    if find_task(kind).ANSWERED_BY != "text":
        raise ValueError(
            f"{kind!r} is answered by a decoder and not in text (answered in text: {', '.join(list_text_tasks())})"
        )
    return kind


def list_pair_tasks() -> tuple[str, ...]:
    """The tasks whose truths are pairs: beside the right answer, they have one that is `rejected`."""
    return tuple(kind for kind in list_text_tasks() if any(f.name == "rejected" for f in fields(find_task(kind).Truth)))


TextTask = Annotated[str, KindName("tasks"), AfterValidator(_check_text_task)]
"""The name of a task that a language model answers."""


SpokenTask = Annotated[str, KindName("tasks"), AfterValidator(_check_spoken_task)]
"""The same, or of a task whose answers are masks, which a language model may draw."""


@cache
def find_task(kind: str) -> Task:
    """Raises DataError for a task that is not installed or not permitted, because the name comes from a shard or a
    record."""
    if "." not in kind and kind not in kinds("tasks"):
        raise DataError(
            f"task {kind!r} is not known{did_you_mean(kind, list_tasks())} (there are {list_some(list_tasks())}); leave"
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
    """The truth in a text of an archive, None if it has none. task: from a card, see CardTask."""
    kind = task if isinstance(task, str) else task.kind
    found = find_task(kind)
    assert found.from_text is not None, kind
    return found.from_text(text, found.Config.model_validate({"kind": kind}) if isinstance(task, str) else task)


def _check_card_task(task: Any) -> Any:
    kind = task if isinstance(task, str) else task.kind
    found = find_task(kind)
    if found.from_text is None:
        raise ValueError(f"a truth of task {kind!r} cannot be made from a text of an archive")
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


def is_outside_choices(truth: sample.Truth, choices: tuple[str, ...]) -> bool:
    """Whether it is no choice, although task `choice` reads one of the choices in its answer: `yes (probable)`."""
    choice = sample.make_truth("choice", choices=choices)
    return (
        bool(choices) and truth.task != choice.task and find_task(choice.task).parse(truth.answer, choice) is not None
    )


def _check_card_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return check_choices(choices)
    except DataError as reason:
        raise ValueError(str(reason)) from None


Choices = Annotated[tuple[str, ...], AfterValidator(_check_card_choices)]
"""The `choices` of a question in a data card, each of which can be told from the others."""


def list_rubrics(truth: sample.Truth, template: str = "") -> list[str]:
    """By what a judge scores an answer to a question, see core/measure.OfJudge. template: of the question."""
    measures = [measure for measure in find_task(truth.task).MEASURES if measure.is_about(template, truth)]
    return [measure.columns.rubric for measure in measures if isinstance(measure.columns, OfJudge)]


def is_scored(truth: sample.Truth, is_long: bool = False) -> bool:
    """Whether a short (or long) text can answer the question and be scored; False for unknown tasks."""
    return is_scored_task(truth.task, is_long)


def is_scored_task(kind: str, is_long: bool = False) -> bool:
    """Whether short (or long) texts can answer its questions and be scored; False for unknown tasks."""
    if not is_available("tasks", kind):
        return False
    task = find_task(kind)
    return task.score is not None and task.ANSWERED_BY == "text" and is_long == task.IS_LONG
