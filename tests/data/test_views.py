"""Volumes and videos as pictures: which slices, in which order, which way up, and how bright."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medvlm.core.errors import DataError
from medvlm.core.sample import Affine, Medium
from medvlm.data.views import Views, make_pictures

DEPTH, HEIGHT, WIDTH = 10, 6, 8


def volume(
    affine: Affine | None = None, spacing: tuple[float, ...] | None = (3.0, 1.0, 1.0)
) -> tuple[np.ndarray, Medium]:
    """uint8, and slice d holds the value d."""
    array = np.broadcast_to(np.arange(DEPTH, dtype=np.uint8)[:, None, None], (DEPTH, HEIGHT, WIDTH)).copy()
    return array, Medium("ct", "0.npy", (DEPTH, HEIGHT, WIDTH), spacing, affine=affine)


def shown(**views: Any) -> list[int]:
    array, medium = volume()
    return [int(p[0, 0, 0]) for p in make_pictures(array, medium, Views(**views))]


def test_uniform_slices_are_the_middles_of_equal_parts() -> None:
    assert shown(max_slices=5) == [1, 3, 5, 7, 9]
    assert shown(max_slices=1) == [5]
    assert shown(max_slices=99) == list(range(DEPTH))


def test_a_stride_is_in_millimetres_around_the_middle_and_the_outer_slices_go_first() -> None:
    at_9_mm = shown(sampling="stride", stride_mm=9.0)
    assert all(b - a == 3 for a, b in pairwise(at_9_mm)) and abs(sum(at_9_mm) / len(at_9_mm) - 4.5) <= 0.5
    assert shown(sampling="stride", stride_mm=9.0, max_slices=1) == [at_9_mm[len(at_9_mm) // 2]]
    assert shown(sampling="stride", stride_mm=0.1) == sorted(set(shown(sampling="stride", stride_mm=0.1))), (
        "no slice twice"
    )


def test_planes_lie_as_a_radiologist_sees_them() -> None:
    """A voxel near the head, the front and the patient's right is bright; stored axes are (z up, y to the front, x to
    the right), and any flips of them."""
    for flips in range(8):
        signs = [-1.0 if flips >> k & 1 else 1.0 for k in range(3)]
        array = np.zeros((DEPTH, HEIGHT, WIDTH), np.uint8)
        place = tuple(0 if sign < 0 else n - 1 for sign, n in zip(signs, (DEPTH, HEIGHT, WIDTH), strict=True))
        array[place] = 200
        affine = ((0.0, 0.0, signs[2], 0.0), (0.0, signs[1], 0.0, 0.0), (signs[0], 0.0, 0.0, 0.0))
        medium = Medium("ct", "0.npy", array.shape, (1.0, 1.0, 1.0), affine=affine)
        axial, coronal, sagittal = (
            make_pictures(array, medium, Views(plane=plane, max_slices=99))
            for plane in ("axial", "coronal", "sagittal")
        )  # type: ignore[arg-type]
        assert (len(axial), len(coronal), len(sagittal)) == (DEPTH, HEIGHT, WIDTH)
        assert axial[-1][0, 0, 0] == 200, (
            "the last axial slice is at the head; front on top, the patient's right on the left"
        )
        assert coronal[-1][0, 0, 0] == 200, "head on top, the patient's right on the left"
        assert sagittal[-1][0, 0, 0] == 200, "head on top, front on the left"


def test_three_windows_are_three_colours_and_one_is_grey() -> None:
    array = np.full((2, 3, 4), 40, np.int16)
    medium = Medium("ct", "0.npy", array.shape, None, "HU")
    first, *_ = make_pictures(array, medium, Views(windows=((-1000.0, 400.0), (-160.0, 240.0), (300.0, 2000.0))))
    np.testing.assert_allclose(first[0, 0], [255 * 1040 / 1400, 255 * 200 / 400, 0], atol=0.51)
    first, *_ = make_pictures(array, medium, Views(window=(0.0, 80.0)))
    assert first.shape == (3, 4, 3) and (first == 128).all()


def test_what_cannot_be_shown_says_why() -> None:
    array, medium = volume(spacing=None)
    with pytest.raises(DataError, match="has no affine"):
        make_pictures(array, medium, Views(plane="axial"))
    with pytest.raises(DataError, match="has no slice spacing"):
        make_pictures(array, medium, Views(sampling="stride", stride_mm=5))
    with pytest.raises(DataError, match="no range to scale by"):
        make_pictures(array.astype(np.int16), medium, Views())
    with pytest.raises(DataError, match="pack the data set again"):
        make_pictures(array[1:], medium, Views())
    with pytest.raises(ValidationError, match="need each other"):
        Views(stride_mm=5)


def test_videos_are_frames_in_colour() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    got = make_pictures(frames, Medium("video", "0.npy", (5, 4, 6)), Views(max_slices=5))
    assert all((a == b).all() for a, b in zip(got, frames, strict=True))
