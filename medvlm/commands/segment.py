"""`medvlm segment`: the mask of one image or volume, as a file for viewers, and a page that shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm.commands.files import list_dicom_files, read_files
from medvlm.core.durable import require_place
from medvlm.core.errors import DataError, RecipeError, did_you_mean
from medvlm.core.sample import Medium

if TYPE_CHECKING:
    import numpy as np

AXES = {"depth": -3, "height": -2, "width": -1}
MM3_PER_ML = 1000.0
MOST_COMPARED = 2e12
"""Pairs of pixels that `--split` compares: about an hour."""
FORMATS = {".nii": b"\x5c\x01", ".nii.gz": b"\x1f\x8b", ".dcm": b"\0" * 128, ".png": b"\x89PNG"}
"""How a file begins that may be replaced."""


@dataclass(frozen=True)
class Found:
    """What was found of a class. pixels: marked. ml: their volume, None without a spacing or for an image. parts:
    connected components."""

    name: str
    pixels: int
    ml: float | None
    parts: int


def segment(
    model: str,
    file: Path,
    to: Path,
    *,
    decoder: str = "",
    only: Sequence[str] = (),
    stage: str = "",
    kind: str = "",
    overlap: float = 0.5,
    flip: Sequence[str] = (),
    largest: Sequence[str] = (),
    least_ml: Mapping[str, float] | None = None,
    page: Path | None = None,
    box: Sequence[tuple[float, float, float, float]] = (),
    point: Sequence[tuple[float, float, bool]] = (),
    words: str = "",
    split: Mapping[str, float] | None = None,
) -> list[Found]:
    """Writes the mask of a file to `to` (.nii, .nii.gz, .dcm or .png), and with `page` a page of it. Returns what was
    found.

    model: a run or an exported folder with a decoder of masks. decoder: which, if there are several. only: classes that
    are written, by default all. largest: classes of which only the largest component is kept. least_ml: class ->
    smaller components are dropped, for media with a spacing; of images, 1 ml is a plate of 1 mm. box: left, top, right
    and bottom edges of objects, in pixels of the file, for a decoder that takes prompts. point: x, y and whether that
    is on the object, all of one object. words: what to mark, for a decoder that reads texts. split: class ->
    pixels that the centres of its objects are apart, to cut them where they touch. Raises RecipeError for an unknown
    class or axis, for prompts that the decoder does not take, and for a format that cannot hold the mask."""
    from medvlm.compositions._open import open_model
    from medvlm.compositions._opened import find
    from medvlm.models.sliding import Windows

    _check_place(to)
    model_: Any = find(open_model(model, stage, needs="decode", device="auto"), "decode")
    name = _choose_decoder(model_.list_masks(), decoder)
    config = model_.decoders[name]
    _check_classes((*only, *largest, *(least_ml or {}), *(split or {})), name, config)
    sample, files = read_files([file], lambda axes: model_.kind_of(axes, kind))
    medium = sample.media[0]
    _check_format(to, medium, config, len(only) or len(config.classes))
    _check_split(split or {}, medium)
    windows = Windows(overlap, tuple(_find_axis(axis, len(medium.size)) for axis in flip))
    shown = _list_shown(config, name, only, box, point, words, medium)
    if shown and flip:
        raise RecipeError("--flip: what a prompt shows is marked without mirror images; leave it out")
    mask = model_.segment(sample, files, name, windows, *([shown, words] if shown else []))
    _clean(mask, config, medium, largest, least_ml or {}, split or {})
    if only:
        mask, config = _choose_classes(mask, config, only)
    _write(mask, config, medium, file, to)
    found = [_measure(_plane(mask, n, config.exclusive), each, medium) for n, each in enumerate(config.classes)]
    if page is not None:
        from medvlm.report.segmented import write_segmented

        shown = model_.prepare.transforms[model_.model.reads[name]].preprocess
        write_segmented(page, file.name, files[medium.member], medium, shown, mask, config, found)
    return found


def _check_classes(named: Sequence[str], name: str, decoder: Any) -> None:
    for each in named:
        if each not in decoder.classes:
            near = did_you_mean(each, decoder.classes)
            raise RecipeError(f"decoder {name} has no class {each!r}{near} (it has {', '.join(decoder.classes)})")


def _check_split(split: Mapping[str, float], medium: Medium) -> None:
    """Raises RecipeError for distances that would take hours: each pixel is compared with all those within them."""
    for name, px in split.items():
        if math.prod(medium.size) * (2 * px + 1) ** len(medium.size) > MOST_COMPARED:
            size = " x ".join(map(str, medium.size))
            raise RecipeError(
                f"--split {name}={px:g}: takes too long on {size} pixels; the distance is that of the centres of"
                f" neighbouring objects, in pixels, e.g. {name}=8"
            )


def _list_shown(
    decoder: Any,
    name: str,
    only: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float]],
    points: Sequence[tuple[float, float, bool]],
    words: str,
    medium: Medium,
) -> list[Any]:
    """The prompts, on the stored pixels: of one object for each box, or of one with all points and at most one box."""
    from medvlm.core.decoder_config import TEXT_FORMS, takes_prompts
    from medvlm.data.prompts import Prompt

    if not takes_prompts(decoder):
        if boxes or points or words:
            given = "box" if boxes else "point" if points else "words"
            raise RecipeError(f"--{given}: decoder {name} takes no prompts; leave it out")
        return []
    alone = next((form for form in ("class", "text") if form in decoder.prompts), "")
    if words and not set(TEXT_FORMS) & set(decoder.prompts):
        raise RecipeError(f"--words: decoder {name} reads no texts; leave it out")
    if (boxes or points) and set(decoder.prompts) <= set(TEXT_FORMS):
        key = "box" if boxes else "point"
        raise RecipeError(f"--{key}: decoder {name} reads no {key}, only texts; leave it out")
    if not boxes and not points and not words and not alone:
        asks = "--words TEXT" if "question" in decoder.prompts else "--box LEFT,TOP,RIGHT,BOTTOM or --point X,Y"
        raise RecipeError(f"decoder {name} marks what a prompt shows; add {asks}")
    named = only or decoder.classes
    if len(named) > 1 and (boxes or points or words):
        raise RecipeError(f"say with --only which class is shown; decoder {name} has {', '.join(decoder.classes)}")
    numbers = [decoder.classes.index(each) for each in named]
    if not boxes and not points:
        return [Prompt(number, ("question" if words else alone,)) for number in numbers]
    if points and len(boxes) > 1:
        raise RecipeError("--point: points are of one object, and there are several boxes; mark them one after another")
    _check_numbers(boxes, points)
    height, width = medium.size[-2:]
    for left, top, right, bottom in (*boxes, *((x, y, x, y) for x, y, _ in points)):
        if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
            key = "box" if boxes else "point"
            raise RecipeError(f"--{key}: reaches beyond the {width} x {height} pixels of the file")
    places, inside = tuple((x, y) for x, y, _ in points), tuple(is_on for *_, is_on in points)
    form = (*(["box"] if boxes else []), *(["point"] if points else []), *(["question"] if words else []))
    each_box: Sequence[Any] = boxes or [None]
    return [Prompt(numbers[0], form, each, places, inside) for each in each_box]


def _check_numbers(boxes: Sequence[Sequence[float]], points: Sequence[Sequence[float]]) -> None:
    """Of Python; those of the command line are checked when they are read."""
    for box in boxes:
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise RecipeError(f"--box: {box} has no area; give its left, top, right and bottom edges")
    for point in points:
        if len(point) != 3:
            raise RecipeError(f"--point: {point} is not x, y and whether that is on the object")


def _choose_decoder(masks: Sequence[str], asked: str) -> str:
    if asked and asked not in masks:
        raise RecipeError(f"--decoder {asked}: no decoder of masks{did_you_mean(asked, masks)} (there are {masks})")
    if not asked and len(masks) != 1:
        there = (
            f"has the decoders of masks {', '.join(masks)}; choose one with --decoder" if masks else "gives no masks"
        )
        raise RecipeError(f"this model {there}")
    return asked or masks[0]


def _check_place(to: Path) -> None:
    """Raises RecipeError for a name that promises another format, and for a file of another kind."""
    begins = next((begins for suffix, begins in FORMATS.items() if to.name.endswith(suffix)), None)
    if begins is None:
        raise RecipeError(f"--to {to}: name a file that ends in .nii.gz, .nii, .dcm or .png")
    require_place(to, begins)


def _check_format(to: Path, medium: Medium, decoder: Any, classes: int) -> None:
    is_png = to.suffix == ".png"
    if is_png != (len(medium.size) == 2):
        what, ending = ("an image", ".png") if len(medium.size) == 2 else ("a volume", ".nii.gz or .dcm")
        raise RecipeError(f"--to {to}: the mask is of {what}; name a file that ends in {ending}")
    if is_png and not decoder.exclusive and classes > 1:
        raise RecipeError(f"--to {to}: a PNG cannot hold {classes} classes that overlap; choose one with --only")
    if not is_png and medium.affine is None:
        raise DataError(f"{medium.member}: its place in the patient is unknown, which NIfTI and DICOM need")


def _find_axis(name: str, axes: int) -> int:
    if name not in AXES or AXES[name] + axes < 0:
        known = list(AXES)[-axes:]
        near = did_you_mean(name, known)
        raise RecipeError(f"--flip {name}: there is no such axis{near} (there are {', '.join(known)})")
    return AXES[name] + axes


def _plane(mask: np.ndarray, number: int, exclusive: bool) -> np.ndarray:
    """bool [*size] of a class."""
    found: np.ndarray = mask == number + 1 if exclusive else mask[number]
    return found


def _clean(
    mask: np.ndarray,
    decoder: Any,
    medium: Medium,
    largest: Sequence[str],
    least_ml: Mapping[str, float],
    split: Mapping[str, float],
) -> None:
    """Cuts objects apart and drops components, in place."""
    from medvlm.data.components import drop_small, keep_largest, split_touching

    for number, name in enumerate(decoder.classes):
        before = kept = _plane(mask, number, decoder.exclusive)
        if name in split:
            kept = split_touching(kept, split[name])
        if name in least_ml:
            kept = drop_small(kept, least_ml[name] / _find_ml(medium, required=True))
        if name in largest:
            kept = keep_largest(kept)
        if kept is not before:
            dropped = before & ~kept
            if decoder.exclusive:
                mask[dropped] = 0
            else:
                mask[number][dropped] = False


def _choose_classes(mask: np.ndarray, decoder: Any, only: Sequence[str]) -> tuple[np.ndarray, Any]:
    """The mask of these classes alone, and the settings of a decoder of them."""
    import numpy as np

    planes = np.stack([_plane(mask, decoder.classes.index(name), decoder.exclusive) for name in only])
    numbers = np.arange(1, len(only) + 1, dtype=np.uint8).reshape(-1, *[1] * (planes.ndim - 1))
    chosen = (planes * numbers).max(0) if decoder.exclusive else planes
    return chosen, decoder.model_copy(update={"classes": tuple(only)})


def _find_ml(medium: Medium, required: bool = False) -> float:
    """Of a pixel or voxel; 0 if unknown."""
    if medium.spacing_mm is None:
        if required:
            raise DataError(f"{medium.member}: has no spacing, so volumes in ml are unknown; leave out --least-ml")
        return 0.0
    product = 1.0
    for side in medium.spacing_mm:
        product *= side
    return product / MM3_PER_ML


def _measure(plane: np.ndarray, name: str, medium: Medium) -> Found:
    from medvlm.data.components import count_components

    pixels, each = int(plane.sum()), _find_ml(medium)
    return Found(name, pixels, pixels * each if each and len(medium.size) == 3 else None, count_components(plane))


def _write(mask: np.ndarray, decoder: Any, medium: Medium, file: Path, to: Path) -> None:
    from medvlm.io.mask_files import write_nifti_mask, write_png_mask
    from medvlm.io.nifti import SUFFIXES

    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".png":
        write_png_mask((mask if mask.ndim == 2 else mask[0]).astype("uint8"), to)
        return
    assert medium.affine is not None
    if to.suffix == ".dcm":
        import numpy as np

        from medvlm.io.dicom.segmentation import write_dicom_mask

        planes = np.stack([_plane(mask, n, decoder.exclusive) for n in range(len(decoder.classes))])
        write_dicom_mask(planes, decoder.classes, medium.affine, list_dicom_files(file), to)
    else:
        write_nifti_mask(mask, medium.affine, to, file if file.name.endswith(SUFFIXES) else None)
