"""Random augmentation of 2D training images, on the stored pixels. Masks, questions and their truths change with them.

Axes: H height, W width, K masks that overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from medvlm.core.config import Config, is_available
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.geometry import Canvas, crop, flip, identity, rot90
from medvlm.core.sample import Question, Sample
from medvlm.core.tasks import find_task

if TYPE_CHECKING:
    import numpy as np


class Augment(Config):
    """`data.SOURCE.augment`: every field is off by default. Applied in training only, to the first medium of a
    sample."""

    flip: bool = False
    """Mirror half of the images left to right. Use it only if sides have no meaning: answers about left and right are
    not changed."""
    rotate90: bool = False
    """Turn by 0, 90, 180 or 270 degrees. Use it only if no answer depends on orientation (smears, sections)."""
    crop: tuple[float, float] | None = None
    """[low, high]: crop to a random share of the area, with the image's proportions. Only questions whose answers can
    be updated remain (boxes, and counts, which are counted again), because other answers may be outside of the crop. A
    sample without such questions is not cropped. Reports are not changed: do not crop a source whose reports a stage
    pairs with its images."""
    shift_px: int = Field(0, ge=0)
    """Move by up to this many stored pixels along each axis; edge pixels are repeated. Keep it small: only counts and
    boxes change with it."""
    gain: float = Field(0.0, ge=0, lt=1)
    """Multiply intensities by a factor within 1 +- this."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Add up to plus or minus this share of the full range to intensities."""
    noise: float = Field(0.0, ge=0, lt=1)
    """Standard deviation of normal noise, as a share of the full range."""

    @field_validator("crop")
    @classmethod
    def _shares_are_in_order(cls, crop: tuple[float, float] | None) -> tuple[float, float] | None:
        if crop is not None and not 0 < crop[0] <= crop[1] <= 1:
            raise ValueError("expected two shares of the area in order, e.g. [0.5, 1.0]")
        return crop


def augment(
    array: np.ndarray,
    sample: Sample,
    config: Augment,
    rng: np.random.Generator,
    masks: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, Sample, dict[str, np.ndarray]]:
    """The first medium's pixels, the sample, and the medium's masks, all with the same changes.

    array: stored pixels, [H, W] or [H, W, 3]; the result has the same type. masks: member -> [H, W] or [K, H, W].
    Boxes of which less than half remains are dropped, and so is a question for boxes that are all dropped. A crop or
    shift that would leave no question of some task is skipped, so that a stage of that task can still use the sample.
    Raises RecipeError if a crop would make a count wrong that has no boxes to count again, and if intensities are to
    change that have no full range (neither uint8 nor uint16).
    """
    import numpy as np

    moves, moved = _plan(array.shape[:2], sample, config, rng)
    array = _move(array, moves)
    if config.gain or config.brightness or config.noise:
        array = _change_intensities(array, sample, config, rng)
    changed = {member: _move_mask(mask, moves) for member, mask in (masks or {}).items()}
    return np.ascontiguousarray(array), moved, changed


Move = Callable[["np.ndarray"], "np.ndarray"]
"""Takes and returns an array [H, W, ...]."""


def _plan(
    size: tuple[int, ...], sample: Sample, config: Augment, rng: np.random.Generator
) -> tuple[list[Move], Sample]:
    """The moves to apply to every array of the medium, and the sample after them."""
    import numpy as np

    moves: list[Move] = []
    # Always draw all of them, so that one option does not change the random numbers of another.
    share, top, left, down, right, mirrored, turned = rng.random(7)
    if config.crop is not None and any(map(_follows_crops, sample.questions)):
        cut = _cut(size, config.crop[0] + share * (config.crop[1] - config.crop[0]), top, left)
        croppable = _keep_croppable(sample)
        inside = _follow(croppable, cut)
        if _list_tasks(inside) == _list_tasks(croppable):
            y, x = int(-cut.offset[0]), int(-cut.offset[1])
            height, width = size = _size(cut)
            moves.append(lambda array: array[y : y + height, x : x + width])
            sample = inside
    canvas = identity(size)
    if config.shift_px:
        dy, dx = (int(np.floor(n * (2 * config.shift_px + 1))) - config.shift_px for n in (down, right))
        shift = crop(_size(canvas), -dy, -dx, _size(canvas))
        if _list_tasks(_follow(sample, shift)) == _list_tasks(sample):
            moves.append(lambda array: _shift(array, dy, dx))
            canvas = shift
    if config.flip and mirrored < 0.5:
        moves.append(lambda array: array[:, ::-1])
        canvas = canvas.then(flip(_size(canvas)))
    if config.rotate90:
        turns = int(turned * 4)
        moves.append(lambda array: np.rot90(array, turns))
        canvas = canvas.then(rot90(_size(canvas), turns))
    return moves, _follow(sample, canvas)


def _move(array: np.ndarray, moves: Sequence[Move]) -> np.ndarray:
    for move in moves:
        array = move(array)
    return array


def _move_mask(mask: np.ndarray, moves: Sequence[Move]) -> np.ndarray:
    import numpy as np

    if mask.ndim == 3:  # masks that overlap are moved like colours, as the last axis
        return np.ascontiguousarray(np.moveaxis(_move(np.moveaxis(mask, 0, -1), moves), -1, 0))
    return np.ascontiguousarray(_move(mask, moves))


def _cut(shape: tuple[int, ...], share: float, top: float, left: float) -> Canvas:
    """A crop with `share` of the area and the image's proportions, at a place given by two numbers in [0, 1)."""
    height, width = (max(1, round(pixels * share**0.5)) for pixels in shape[:2])
    y, x = int(top * (shape[0] - height + 1)), int(left * (shape[1] - width + 1))
    return crop((shape[0], shape[1]), y, x, (height, width))


def _keep_croppable(sample: Sample) -> Sample:
    """The sample with only the questions that a crop can still answer. Raises RecipeError for a question whose truth
    lacks what that needs."""
    questions = tuple(q for q in sample.questions if _follows_crops(q))
    for q in questions:
        try:
            find_task(q.truth.task).check_crop(q.truth)
        except DataError as reason:
            raise RecipeError(
                f"data.{sample.source}.augment.crop: sample {sample.key} cannot be cropped: {q.template}: {reason}, or"
                " remove `crop`"
            ) from None
    return replace(sample, questions=questions)


def _follows_crops(question: Question) -> bool:
    task = question.truth.task
    return is_available("tasks", task) and find_task(task).FOLLOWS_CROPS


def _follow(sample: Sample, canvas: Canvas) -> Sample:
    """The sample with truths, size and spacing for the canvas instead of the stored image."""
    medium = sample.media[0]
    spacing_mm = canvas.convert_spacing_mm(medium.spacing_mm) if medium.spacing_mm else None
    questions = []
    for q in sample.questions:
        # A task that is not installed here is not asked either, so its truth can stay unchanged.
        known = is_available("tasks", q.truth.task)
        truth = find_task(q.truth.task).follow(q.truth, canvas) if known else q.truth
        if truth is not None:
            questions.append(replace(q, truth=truth))
    return replace(
        sample,
        media=(replace(medium, size=canvas.size, spacing_mm=spacing_mm), *sample.media[1:]),
        questions=tuple(questions),
    )


def _list_tasks(sample: Sample) -> set[str]:
    return {q.truth.task for q in sample.questions}


def _shift(array: np.ndarray, dy: int, dx: int) -> np.ndarray:
    import numpy as np

    height, width = array.shape[:2]
    before, after = (max(dy, 0), max(dx, 0)), (max(-dy, 0), max(-dx, 0))
    padded = np.pad(array, [*zip(before, after, strict=True), *[(0, 0)] * (array.ndim - 2)], mode="edge")
    return padded[after[0] : after[0] + height, after[1] : after[1] + width]


def _change_intensities(array: np.ndarray, sample: Sample, config: Augment, rng: np.random.Generator) -> np.ndarray:
    import numpy as np

    if array.dtype not in (np.uint8, np.uint16):
        raise RecipeError(
            f"data.{sample.source}.augment: gain, brightness and noise need 8- or 16-bit pixels, but those of"
            f" {sample.key} are {array.dtype}"
        )
    full = np.float32(np.iinfo(array.dtype).max)
    gain, brightness = rng.uniform(-1, 1, 2)
    lit = array * np.float32(1 + gain * config.gain) + np.float32(brightness * config.brightness) * full
    if config.noise:
        lit += rng.standard_normal(array.shape, np.float32) * (np.float32(config.noise) * full)
    return (np.clip(lit, 0, full) + np.float32(0.5)).astype(array.dtype)


def _size(canvas: Canvas) -> tuple[int, int]:
    return canvas.size[0], canvas.size[1]
