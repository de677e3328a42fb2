"""How large media are in their files and as a model is shown them, in pixels and in millimetres, and whether labelled
boxes are still larger than a patch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medvlm.core.errors import DataError
from medvlm.core.geometry import WARNING, Canvas
from medvlm.core.sample import Medium, Sample
from medvlm.core.tasks import find_task
from medvlm.data.composed import ComposedPrepare
from medvlm.data.estimate import NoFiles
from medvlm.data.source import SourceView
from medvlm.data.steps import plan_steps
from medvlm.io.places import is_remote
from medvlm.preflight.draft import make_draft
from medvlm.preflight.samples import read_some
from medvlm.recipe.schema import Recipe
from medvlm.recipe.shapes import find_facts

TIMES = " x "


def list_grids(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Encoder -> tokens per axis of its input, of those of which it is known without building."""
    found = {name: find_facts(encoder).grid for name, encoder in recipe.model.encoders.items()}
    return {name: grid for name, grid in found.items() if grid}


def describe_trained(recipe: Recipe, prepare: Any, views: Iterable[SourceView]) -> list[str]:
    """describe_scales() of some samples that a stage trains on. Nothing is downloaded for it, and damaged shards are
    reported by the training."""
    samples: list[Sample] = []
    for view in views:
        with suppress(DataError):
            samples += [] if is_remote(view.whereabouts(*view.locate(0))[1]) else read_some(view)
    return describe_scales(prepare.estimate(True), samples, list_grids(recipe))


def describe_packed(given: Recipe, samples: Iterable[Sample]) -> list[str]:
    """describe_scales() of samples from shards, for each composition that the recipe trains, without its weights.

    Raises RecipeError for a model whose config is not known."""
    samples = list(samples)
    with TemporaryDirectory() as folder:
        draft = make_draft(given, {}, Path(folder))
        grids = list_grids(draft.recipe)
        lines = [line for made in draft.assemblies.values() for line in describe_scales(made.prepare, samples, grids)]
    return list(dict.fromkeys(lines))


def describe_scales(prepare: Any, samples: Iterable[Sample], grids: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A line for each kind of first medium, by its commonest size; then a warning of boxes that become too small.

    prepare: of a plan, which reads no files. grids: see list_grids()."""
    found: dict[str, Counter[str]] = {}
    boxes = small = 0
    patch_text = ""
    for sample in samples:
        if not sample.media or not sample.media[0].size or not all(sample.media[0].size):
            continue
        medium = sample.media[0]
        try:
            canvas, patch = _show(prepare, sample, grids)
        except DataError:  # told of where its samples are prepared
            continue
        if canvas is None:
            continue
        found.setdefault(medium.kind, Counter())[_describe(medium, canvas, patch)] += 1
        for box in _list_boxes(sample) if patch else ():
            x1, y1, x2, y2 = canvas.to_canvas(box)
            assert patch is not None
            boxes, patch_text = boxes + 1, _say(patch, "px")
            small += (x2 - x1) * (y2 - y1) < patch[-1] * patch[-2]
    lines = [f"{kind}: {counts.most_common(1)[0][0]}" for kind, counts in found.items()]
    if small:
        lines.append(
            f"{WARNING}{small} of {boxes} labelled boxes become smaller than a patch ({patch_text}) as shown to the"
            " model; enlarge preprocess.size (or the processor's), cut the image into tiles, or leave them out"
        )
    return lines


def _describe(medium: Medium, canvas: Canvas, patch: tuple[float, ...] | None) -> str:
    axes = len(canvas.size)
    stored_mm = medium.spacing_mm[-axes:] if medium.spacing_mm else None
    scale = canvas.scale[:-2] + canvas.scale[-2:][::-1] if canvas.swapped else canvas.scale
    text = f"{_say(medium.size, 'px')}{_say_mm(stored_mm)} in the file, {_say(canvas.size, 'px')}"
    shown_mm = None
    if stored_mm:
        shown_mm = tuple(mm / abs(factor) for mm, factor in zip(stored_mm, scale, strict=True))
        shown_mm = (*shown_mm[:-2], *shown_mm[-2:][::-1]) if canvas.swapped else shown_mm
    text += f"{_say_mm(shown_mm)} as shown to the model"
    return text + (f", a patch of {_say(patch, 'px')}" if patch else "")


def _show(
    prepare: Any, sample: Sample, grids: Mapping[str, tuple[int, ...]]
) -> tuple[Canvas | None, tuple[float, ...] | None]:
    """Where medium 0 lies on what the model is shown, and (height, width) of what one token sees of it: of a ready
    model a square of the mean area. None for what is not known."""
    medium = sample.media[0]
    if isinstance(prepare, ComposedPrepare):
        name = prepare.routes.get(medium.kind, "")
        preprocess, grid = prepare.preprocess.get(name), grids.get(name)
        if preprocess is None or len(preprocess.size) != len(medium.size):  # refused, or a picture as a volume
            return None, None
        canvas = plan_steps(medium.size, medium.spacing_mm, preprocess, medium.member).canvas
        # With one token for each slice or tile, that token sees all of it.
        of_view = grid[-2:] if grid and len(grid) > 1 else (1, 1)
        parts = zip(canvas.size[-2:], of_view, preprocess.tiles or (1, 1), strict=True) if grid else ()
        return canvas, tuple(size / (n * tiles) for size, n, tiles in parts) or None
    seen = prepare.see(sample, NoFiles())
    if seen.canvas is None:
        return None, None
    side = math.sqrt(math.prod(seen.canvas.size[-2:]) / seen.media[0][1].counts[0])
    return seen.canvas, (side, side)


def _list_boxes(sample: Sample) -> Iterator[tuple[float, float, float, float]]:
    found = [find_task(q.truth.task).describe(None, q.truth).boxes or () for q in sample.questions]
    yield from dict.fromkeys(box for boxes in found for box, _ in boxes)


def _say(values: tuple[float, ...], unit: str) -> str:
    """`64 x 48 px`, width first."""
    return f"{TIMES.join(f'{value:.3g}' if value < 1000 else f'{value:.0f}' for value in reversed(values))} {unit}"


def _say_mm(spacing_mm: tuple[float, ...] | None) -> str:
    return f" of {_say(spacing_mm, 'mm')}" if spacing_mm else " (millimetres not stated)"
