"""Patches of volumes and large images that do not fit the input of an encoder: a part of the stored pixels, as large as
the input is in mm, around a marked pixel or anywhere.

Axes: of the medium, (height, width) or (depth, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from medvlm.core.config import Config
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Sample
from medvlm.core.tasks import find_task

if TYPE_CHECKING:
    import numpy as np


class Patch(Config):
    """`data.SOURCE.augment.patch`: training sees a patch of each medium that is larger than the input of its encoder,
    which needs `spacing_mm`. By default it sees the centre."""

    foreground: float = Field(1 / 3, ge=0, le=1)
    """Share of the patches that are centred on a marked pixel, of a class that is drawn first: each class of a mask as
    often. The others are anywhere. A third as in nnU-Net (Isensee et al. 2021, supplementary note 2,
    https://doi.org/10.1038/s41592-020-01008-z)."""
    _inputs: dict[str, Preprocess] = PrivateAttr(default_factory=dict)
    """Kind of medium -> the input of its encoder."""

    def bind(self, prepare: Any, source: str) -> Patch:
        """The same for the encoders of a data path. Raises RecipeError if no input has a spacing, and for one with a
        spacing whose intensities depend on the whole medium."""
        bound = self.model_copy()
        bound._inputs = {}
        for kind, name in getattr(prepare, "routes", {}).items():
            before = prepare.preprocess[name]
            if before.spacing_mm is None or before.tiles or before.stack > 1:
                continue
            if before.percentiles is not None:
                raise RecipeError(
                    f"data.{source}.augment.patch: preprocess.percentiles of encoders.{name} would be those of each"
                    " patch; use preprocess.window"
                )
            bound._inputs[kind] = before
        if not bound._inputs:
            raise RecipeError(
                f"data.{source}.augment.patch: no encoder has preprocess.spacing_mm, so every input shows the whole"
                " medium; set it, or remove `patch`"
            )
        return bound

    def cut(
        self, array: np.ndarray, sample: Sample, masks: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, Sample, dict[str, np.ndarray]]:
        """The part of the first medium, its masks, and the sample with the questions for masks alone. array: stored
        pixels, [*size] or with colours behind. Raises DataError for a sample with no such question."""
        medium = sample.media[0]
        preprocess = self._inputs.get(medium.kind)
        if preprocess is None or medium.spacing_mm is None:
            return array, sample, dict(masks)
        size = find_size(medium.size, medium.spacing_mm, preprocess)
        if size == medium.size:
            return array, sample, dict(masks)
        questions = tuple(q for q in sample.questions if q.truth.members)
        if not questions:
            raise DataError(f"{medium.member}: a patch of it has no answer to its questions, which are not about masks")
        start = self._place(sample, size, masks, rng)
        within = tuple(slice(at, at + n) for at, n in zip(start, size, strict=True))
        # Masks that overlap have an axis in front.
        cut = {name: mask[(slice(None),) * (mask.ndim - len(size)) + within] for name, mask in masks.items()}
        media = (replace(medium, size=size), *sample.media[1:])
        return array[within], replace(sample, media=media, questions=questions), cut

    def _place(
        self, sample: Sample, size: tuple[int, ...], masks: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> tuple[int, ...]:
        """The first pixel of the patch. A patch around a marked pixel stays within the medium."""
        stored = sample.media[0].size
        is_marked, question, of_class, of_pixel, *anywhere = rng.random(4 + len(size)).tolist()
        truths = [q.truth for q in sample.questions if q.truth.members]
        truth = truths[int(question * len(truths))]
        draw_marked = find_task(truth.task).draw_marked
        found = draw_marked(truth, masks, of_class, of_pixel) if is_marked < self.foreground and draw_marked else None
        if found is None:
            return tuple(int(u * (n - side + 1)) for u, n, side in zip(anywhere, stored, size, strict=True))
        centred = (at - side // 2 for at, side in zip(found, size, strict=True))
        return tuple(min(max(at, 0), n - side) for at, n, side in zip(centred, stored, size, strict=True))


def find_size(size: tuple[int, ...], spacing_mm: tuple[float, ...], preprocess: Preprocess) -> tuple[int, ...]:
    """The pixels of a stored medium that fill the input, at most all of them."""
    assert preprocess.spacing_mm is not None
    wanted = zip(size, spacing_mm, preprocess.size, preprocess.spacing_mm, strict=True)
    return tuple(min(n, math.ceil(side * mm / own)) for n, own, side, mm in wanted)
