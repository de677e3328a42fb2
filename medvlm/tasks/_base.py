"""What a task is where its file does not say otherwise; see core/tasks.Task for what each of these means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medvlm.core.geometry import Canvas
from medvlm.core.measure import Measure
from medvlm.core.sample import Medium, Truth
from medvlm.core.tasks import Drawing

if TYPE_CHECKING:
    import numpy as np

ANSWERED_BY = "text"
NEEDS_CANVAS = False
FOLLOWS_CROPS = False
FOLLOWS_WARPS = False
FREE_TEXT = False
IS_LONG = False
READS_THOUGHTS = False
TITLE = ""
MEASURES: tuple[Measure, ...] = ()

score = None
is_formatted = None
best_constant = None
choose_points = None
decide = None
list_choices = None
example = None
from_text = None
target = None
decode = None
make_labelled = None
draw_marked = None
list_objects = None


def write(truth: Truth) -> str:
    return truth.answer


def parse(text: str, truth: Truth) -> Any:
    return text


def settle(truth: Truth, media: Sequence[Medium]) -> Truth:
    return truth


def check(truth: Truth, media: Sequence[Medium]) -> None:
    pass


def has_coordinates(truth: Truth) -> bool:
    return False


def place(truth: Truth, canvas: Canvas | None, writing: Any) -> Truth:
    return truth


def hold(truth: Truth, masks: Mapping[str, np.ndarray], spacing_mm: tuple[float, ...] | None = None) -> Truth:
    return truth


def check_crop(truth: Truth) -> None:
    pass


def follow(truth: Truth, canvas: Canvas) -> Truth | None:
    return truth


def summarise(truth: Truth) -> str:
    return truth.answer


def describe(answer: Any, truth: Truth) -> Drawing:
    return Drawing(truth.answer)
