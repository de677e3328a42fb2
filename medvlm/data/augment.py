"""Random augmentation of training images and volumes, on the stored pixels. Masks, questions and their truths change
with them. It is drawn by the position in the stream, so a resumed run makes the same.

Axes: D slices, H height, W width, K masks that overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from medvlm.core.config import Config, is_available
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.geometry import Canvas, crop, flip, identity, rot90
from medvlm.core.sample import Question, Sample
from medvlm.core.tasks import find_task
from medvlm.data import foreign
from medvlm.data.lighting import Light, change_intensities, change_shares, draw_bias
from medvlm.data.moves import Move, apply_moves, bend, find_crop, find_plane, shift_edges, take_inside
from medvlm.data.patches import Patch
from medvlm.data.sides import swap_sides
from medvlm.data.warp import Warp, make_tilt, make_warp
from medvlm.tasks import _base

if TYPE_CHECKING:
    import numpy as np


class Augment(Config):
    """`data.SOURCE.augment`: every field is off by default. Applied in training only, to the first medium of a sample.
    In volumes, all slices are flipped, turned, zoomed, bent and shifted alike, within their plane, unless `tilt_deg` is
    set; `crop` leaves out slices too."""

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
    tilt_deg: float = Field(0.0, ge=0, le=180, exclude_if=lambda degrees: not degrees)
    """Turn volumes out of the plane of their slices, by up to this many degrees around the axes of columns and of rows.
    `rotate_deg`, `scale` and `elastic` then act in millimetres, and the latter two along all three axes. A box becomes
    the bounds of what it held in all slices. Questions about slices by number cannot follow. Needs a spacing."""
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

    changes: tuple[foreign.Change, ...] = Field((), exclude_if=lambda changes: not changes)
    """Further changes of intensities, in this order, by classes of MONAI, torchvision (v2) or another library, e.g.
    [{path: monai.transforms.RandGibbsNoise, args: {prob: 0.3}}]. Those that move pixels are refused."""

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
        for number, change in enumerate(self.changes):
            foreign.make(change, f"data.{source}.augment.changes.{number}")
        return self.model_copy(update={"patch": self.patch.bind(prepare, source)}) if self.patch else self

    @property
    def warps(self) -> bool:
        return bool(self.rotate_deg or self.scale or self.elastic or self.tilt_deg)

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
    of_warp, of_light, of_patch, of_slices, of_tilt, of_changes = rng.spawn(6)
    if config.patch is not None:
        array, sample, masks = config.patch.cut(array, sample, masks or {}, of_patch)
    moves, moved = _plan(sample, config, rng, of_warp, of_slices, of_tilt)
    array = apply_moves(array, moves, axes, nearest=False)
    if config.lights:
        array = change_intensities(array, axes, _draw_light(config, axes, rng, of_light), rng.standard_normal)
    for number, change in enumerate(config.changes):
        key = f"data.{sample.source}.augment.changes.{number}"
        array = change_shares(array, axes, partial(foreign.apply, foreign.make(change, key), rng=of_changes, what=key))
    changed = {member: apply_moves(mask, moves, axes, nearest=True) for member, mask in (masks or {}).items()}
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


def _plan(
    sample: Sample,
    config: Augment,
    rng: np.random.Generator,
    of_warp: np.random.Generator,
    of_slices: np.random.Generator,
    of_tilt: np.random.Generator,
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
        cut = find_crop(stored, config.crop[0] + share * (config.crop[1] - config.crop[0]), places)
        croppable = _keep_croppable(sample)
        inside = _follow(croppable, cut)
        if _list_tasks(inside) == _list_tasks(croppable):
            moves.append(partial(take_inside, cut))
            sample, size = inside, find_plane(cut)
    if config.warps:
        warp = _draw_warp(sample, (size[0], size[1]), config, of_warp, of_tilt)
        bent = _follow(sample, warp)
        if all(map(_follows_warps, sample.questions)) and _list_tasks(bent) == _list_tasks(sample):
            moves.append(partial(bend, warp))
            sample = bent
    canvas = identity(size)
    if config.shift_px:
        dy, dx = (int(np.floor(n * (2 * config.shift_px + 1))) - config.shift_px for n in (down, right))
        shift = crop(find_plane(canvas), -dy, -dx, find_plane(canvas))
        if _list_tasks(_follow(sample, shift)) == _list_tasks(sample):
            moves.append(lambda array, _: shift_edges(array, dy, dx))
            canvas = shift
    if config.flip and mirrored < 0.5:
        moves.append(lambda array, _: array[:, ::-1])
        canvas = canvas.then(flip(find_plane(canvas)))
        sample = swap_sides(sample, config.sides)
    if config.rotate90:
        turns = int(turned * 4)
        moves.append(lambda array, _: np.rot90(array, turns))
        canvas = canvas.then(rot90(find_plane(canvas), turns))
    return moves, _follow(sample, canvas)


def _draw_warp(
    sample: Sample, size: tuple[int, int], config: Augment, rng: np.random.Generator, of_tilt: np.random.Generator
) -> Warp:
    """Raises RecipeError for a volume to be tilted whose spacing is not known."""
    turn, power = rng.random(2)
    low, high = config.scale or (1.0, 1.0)
    degrees, zoom, medium = (2 * turn - 1) * config.rotate_deg, low * (high / low) ** power, sample.media[0]
    if not config.tilt_deg or len(medium.size) == 2:
        return make_warp(size, degrees, zoom, config.elastic, rng.standard_normal)
    if medium.spacing_mm is None:
        raise RecipeError(
            f"data.{sample.source}.augment.tilt_deg: sample {sample.key} has no spacing, so how far its slices are"
            " apart is not known; pack it with a spacing, or remove `tilt_deg`"
        )
    depth, height, width = medium.size
    z_mm, y_mm, x_mm = medium.spacing_mm
    of_columns, of_rows = ((2 * share - 1) * config.tilt_deg for share in of_tilt.random(2))
    return make_tilt(
        (depth, height, width), (z_mm, y_mm, x_mm), (degrees, of_columns, of_rows), zoom, config.elastic,
        rng.standard_normal,
    )  # fmt: skip


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
