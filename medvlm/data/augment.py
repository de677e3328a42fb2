"""Random augmentation of training images and volumes, on the stored pixels. Masks, questions and their truths change
with them. It is drawn by the position in the stream, so a resumed run makes the same.

Axes: D slices, H height, W width, K masks that overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from medvlm.core.config import Config, is_available
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.geometry import Canvas, crop, flip, identity, rot90
from medvlm.core.sample import Question, Sample
from medvlm.core.tasks import find_task
from medvlm.data.lighting import Light, change_intensities, draw_bias
from medvlm.data.patches import Patch
from medvlm.data.sides import swap_sides
from medvlm.data.warp import Warp, apply_warp, make_warp
from medvlm.tasks import _base

if TYPE_CHECKING:
    import numpy as np


class Augment(Config):
    """`data.SOURCE.augment`: every field is off by default. Applied in training only, to the first medium of a sample.
    In volumes, all slices are flipped, turned, zoomed, bent and shifted alike, within their plane; `crop` leaves out
    slices too."""

    patch: Patch | None = Field(None, exclude_if=lambda patch: patch is None)
    """Show a patch of a medium that is larger than the input, before all other changes."""
    flip: bool = False
    """Mirror half of the images left to right. Use it only if sides have no meaning, or with `sides`."""
    sides: tuple[tuple[str, str], ...] = ()
    """Words that change places where an image is mirrored, e.g. [[left, right], [L, R]]: in questions, answers,
    classes, reports and concepts. Whole words, whatever their case."""
    rotate90: bool = False
    """Turn by 0, 90, 180 or 270 degrees. Use it only if no answer depends on orientation (smears, sections)."""
    crop: tuple[float, float] | None = None
    """[low, high]: crop to a random share of the area, or of the volume, with its proportions. Only questions whose
    answers can be updated remain (boxes, and counts, which are counted again), because other answers may be outside of
    the crop. A sample without such questions is not cropped. Reports are not changed: do not crop a source whose
    reports a stage pairs with its images."""
    rotate_deg: float = Field(0.0, ge=0, le=180)
    """Turn by up to this many degrees. Keep what may leave the image in mind: answers other than boxes, counts and
    masks do not change. A box becomes the bounds of what it held, which are larger where the image is turned. Samples
    with questions that cannot follow are not turned, zoomed or bent."""
    scale: tuple[float, float] | None = None
    """[low, high]: zoom by a random factor; above 1 shows things larger. The size of the image stays, and so does its
    spacing in mm, as if the patient was larger."""
    elastic: tuple[float, float] | None = None
    """[pixels that points move, distance of points in pixels], e.g. [4, 32]: bend the image by random moves of a grid
    of points. Of moves up to a tenth of the distance, nothing folds over."""
    shift_px: int = Field(0, ge=0)
    """Move by up to this many stored pixels along each axis; edge pixels are repeated. Keep it small: only counts and
    boxes change with it."""
    gain: float = Field(0.0, ge=0, lt=1)
    """Multiply intensities by a factor within 1 +- this."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Add up to plus or minus this share of the full range to intensities."""
    noise: float = Field(0.0, ge=0, lt=1)
    """Standard deviation of normal noise, as a share of the full range."""
    gamma: tuple[float, float] | None = None
    """[low, high]: raise intensities, as shares of the full range, to a random power, e.g. [0.7, 1.5]."""
    blur_px: float = Field(0.0, ge=0)
    """Blur by a normal curve with a standard deviation of up to this many stored pixels."""
    bias_field: float = Field(0.0, ge=0, lt=1)
    """Multiply by a smooth field, as of the coils of an MR scanner: exp of a polynomial whose coefficients are up to
    this, e.g. 0.3."""

    @field_validator("crop")
    @classmethod
    def _shares_are_in_order(cls, crop: tuple[float, float] | None) -> tuple[float, float] | None:
        if crop is not None and not 0 < crop[0] <= crop[1] <= 1:
            raise ValueError("expected two shares of the area in order, e.g. [0.5, 1.0]")
        return crop

    @field_validator("scale", "gamma")
    @classmethod
    def _factors_are_in_order(cls, factors: tuple[float, float] | None) -> tuple[float, float] | None:
        if factors is not None and not 0 < factors[0] <= factors[1]:
            raise ValueError("expected two factors in order, e.g. [0.8, 1.25]")
        return factors

    @field_validator("elastic")
    @classmethod
    def _moves_are_positive(cls, elastic: tuple[float, float] | None) -> tuple[float, float] | None:
        if elastic is not None and not (elastic[0] > 0 and elastic[1] >= 1):
            raise ValueError("expected [pixels that points move, distance of points], e.g. [4, 32]")
        return elastic

    def bind(self, prepare: Any, source: str) -> Augment:
        """The same for the encoders of a data path. Raises RecipeError if it does not suit them."""
        return self.model_copy(update={"patch": self.patch.bind(prepare, source)}) if self.patch else self

    @property
    def warps(self) -> bool:
        return bool(self.rotate_deg or self.scale or self.elastic)

    @property
    def lights(self) -> bool:
        return bool(self.gain or self.brightness or self.noise or self.gamma or self.blur_px or self.bias_field)


def augment(
    array: np.ndarray,
    sample: Sample,
    config: Augment,
    rng: np.random.Generator,
    masks: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, Sample, dict[str, np.ndarray]]:
    """The first medium's pixels, the sample, and the medium's masks, all with the same changes.

    array: stored pixels, [H, W], [H, W, 3], [D, H, W] or [D, H, W, 3]; the result has the same type. masks: member ->
    [(D,) H, W] or [K, (D,) H, W]. Boxes of which less than half remains are dropped, and so is a question for boxes
    that are all dropped. A crop or shift that would leave no question of some task is skipped, so that a stage of that
    task can still use the sample; so is a turn, zoom or elastic change. Raises RecipeError if a crop would make a count
    wrong that has no boxes to count again.
    """
    import numpy as np

    axes = len(sample.media[0].size)
    # Of their own, so that they do not change the random numbers of the others.
    of_warp, of_light, of_patch, of_slices = rng.spawn(4)
    if config.patch is not None:
        array, sample, masks = config.patch.cut(array, sample, masks or {}, of_patch)
    moves, moved = _plan(sample, config, rng, of_warp, of_slices)
    array = _move(array, moves, axes, nearest=False)
    if config.lights:
        array = change_intensities(array, axes, _draw_light(config, axes, rng, of_light), rng.standard_normal)
    changed = {member: _move(mask, moves, axes, nearest=True) for member, mask in (masks or {}).items()}
    return np.ascontiguousarray(array), moved, changed


def _draw_light(config: Augment, axes: int, rng: np.random.Generator, further: np.random.Generator) -> Light:
    gain, brightness = rng.uniform(-1, 1, 2)
    blur, power = further.random(2)
    low, high = config.gamma or (1.0, 1.0)
    return Light(
        gain * config.gain,
        brightness * config.brightness,
        config.noise,
        low * (high / low) ** power,
        draw_bias(config.bias_field, axes, further.uniform) if config.bias_field else None,
        blur * config.blur_px,
    )


Move = Callable[["np.ndarray", bool], "np.ndarray"]
"""Takes and returns an array [H, W, ...]; the second argument is whether it holds labels."""


def _plan(
    sample: Sample,
    config: Augment,
    rng: np.random.Generator,
    of_warp: np.random.Generator,
    of_slices: np.random.Generator,
) -> tuple[list[Move], Sample]:
    """The moves to apply to every array of the medium, and the sample after them."""
    import numpy as np

    moves: list[Move] = []
    stored = sample.media[0].size
    size = (stored[-2], stored[-1])
    # Always draw all of them, so that one option does not change the random numbers of another.
    share, top, left, down, right, mirrored, turned = rng.random(7)
    if config.crop is not None and any(map(_follows_crops, sample.questions)):
        places = (*of_slices.random(len(stored) - 2), top, left)
        cut = _cut(stored, config.crop[0] + share * (config.crop[1] - config.crop[0]), places)
        croppable = _keep_croppable(sample)
        inside = _follow(croppable, cut)
        if _list_tasks(inside) == _list_tasks(croppable):
            moves.append(partial(_take_inside, cut))
            sample, size = inside, _size(cut)
    if config.warps:
        warp = _draw_warp((size[0], size[1]), config, of_warp)
        bent = _follow(sample, warp)
        if all(map(_follows_warps, sample.questions)) and _list_tasks(bent) == _list_tasks(sample):
            moves.append(lambda array, nearest: apply_warp(array, warp, nearest))
            sample = bent
    canvas = identity(size)
    if config.shift_px:
        dy, dx = (int(np.floor(n * (2 * config.shift_px + 1))) - config.shift_px for n in (down, right))
        shift = crop(_size(canvas), -dy, -dx, _size(canvas))
        if _list_tasks(_follow(sample, shift)) == _list_tasks(sample):
            moves.append(lambda array, _: _shift(array, dy, dx))
            canvas = shift
    if config.flip and mirrored < 0.5:
        moves.append(lambda array, _: array[:, ::-1])
        canvas = canvas.then(flip(_size(canvas)))
        sample = swap_sides(sample, config.sides)
    if config.rotate90:
        turns = int(turned * 4)
        moves.append(lambda array, _: np.rot90(array, turns))
        canvas = canvas.then(rot90(_size(canvas), turns))
    return moves, _follow(sample, canvas)


def _draw_warp(size: tuple[int, int], config: Augment, rng: np.random.Generator) -> Warp:
    turn, power = rng.random(2)
    low, high = config.scale or (1.0, 1.0)
    return make_warp(
        size, (2 * turn - 1) * config.rotate_deg, low * (high / low) ** power, config.elastic, rng.standard_normal
    )


def _move(array: np.ndarray, moves: Sequence[Move], axes: int, nearest: bool) -> np.ndarray:
    """axes: of the medium, 2 or 3. nearest: of masks, whose axes are the last ones; of pixels, colours are behind."""
    import numpy as np

    before = array.ndim - 2 if nearest else axes - 2
    # Slices, and masks that overlap, are moved like colours, behind height and width.
    turned = np.moveaxis(array, range(before), range(-before, 0)) if before else array
    for move in moves:
        turned = move(turned, nearest)
    return np.ascontiguousarray(np.moveaxis(turned, range(-before, 0), range(before)) if before else turned)


def _cut(shape: tuple[int, ...], share: float, places: Sequence[float]) -> Canvas:
    """A crop with `share` of the area or volume and its proportions, at a place given by numbers in [0, 1)."""
    size = tuple(max(1, round(pixels * share ** (1 / len(shape)))) for pixels in shape)
    first = (int(place * (whole - kept + 1)) for place, whole, kept in zip(places, shape, size, strict=True))
    return Canvas(size, (1.0,) * len(shape), tuple(float(-at) for at in first))


def _take_inside(cut: Canvas, array: np.ndarray, nearest: bool) -> np.ndarray:
    """The part of an array [H, W, ...] or [H, W, ..., D] that a crop keeps."""
    (height, width), (y, x) = cut.size[-2:], (int(-at) for at in cut.offset[-2:])
    kept = array[y : y + height, x : x + width]
    if len(cut.size) == 2:
        return kept
    z = int(-cut.offset[0])
    return kept[..., z : z + cut.size[0]]


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


def _follows_warps(question: Question) -> bool:
    task = question.truth.task
    if not is_available("tasks", task):
        return True
    return find_task(task).FOLLOWS_WARPS or find_task(task).follow is _base.follow


def _follow(sample: Sample, canvas: Canvas) -> Sample:
    """The sample with truths, size and spacing for the canvas instead of the stored image, or of its slices."""
    medium = sample.media[0]
    if len(medium.size) == 3 and len(canvas.size) == 2:
        canvas = replace(canvas, size=(medium.size[0], *canvas.size), scale=(1.0, *canvas.scale),
                         offset=(0.0, *canvas.offset))  # fmt: skip
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


def _size(canvas: Canvas) -> tuple[int, int]:
    return canvas.size[-2], canvas.size[-1]
