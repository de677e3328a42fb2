"""Volumes that are turned out of the plane of their slices: in millimetres, with their masks and boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medvlm.core.errors import RecipeError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.data.augment import Augment, augment
from medvlm.data.order import draw
from medvlm.data.warp import apply_tilt, make_tilt

SIZE, SPACING = (14, 40, 32), (5.0, 1.0, 2.0)
MASK = Question("Where?", make_truth("mask", member="m", classes=("a",)), "mask")
ALL: dict[str, Any] = {"tilt_deg": 25, "rotate_deg": 30, "scale": (0.8, 1.25), "elastic": (2, 16)}


def no_moves(shape: Any) -> np.ndarray:
    raise AssertionError("nothing is bent")


def tilt_of(degrees: tuple[float, float, float], zoom: float = 1.0) -> Any:
    return make_tilt(SIZE, SPACING, degrees, zoom, None, no_moves)


def sample_of(size: tuple[int, ...], *questions: Question, spacing: Any = SPACING) -> Sample:
    return Sample("k", "ct", "train", (Medium("ct", "0.npy", size, spacing),), questions=questions)


@pytest.mark.parametrize("degrees", [(20.0, 0.0, 0.0), (0.0, 30.0, 0.0), (0.0, 0.0, 25.0), (15.0, -20.0, 35.0)])
def test_voxels_are_those_of_a_rotation_in_millimetres(degrees: tuple[float, float, float]) -> None:
    """scipy's rotation matrices, and its linear interpolation with edges repeated."""
    volume, zoom = np.random.default_rng(0).normal(size=SIZE).astype(np.float32), 1.2
    # (z, y, x): a turn of y into x is one around z, and so on; each takes the result back to the source.
    turns = [Rotation.from_euler("x", -degrees[0], degrees=True), Rotation.from_euler("z", -degrees[1], degrees=True),
             Rotation.from_euler("y", degrees[2], degrees=True)]  # fmt: skip
    rotation = (turns[2] * turns[1] * turns[0]).as_matrix() / zoom
    spacing = np.array(SPACING)[:, None]
    middle = np.array(SIZE)[:, None] / 2
    at = np.indices(SIZE).reshape(3, -1) + 0.5 - middle
    source = rotation @ (at * spacing) / spacing + middle
    expected = map_coordinates(volume, source - 0.5, order=1, mode="nearest").reshape(SIZE)
    found = apply_tilt(volume, tilt_of(degrees, zoom), nearest=False)
    assert np.abs(found - expected).max() < 1e-3 and not np.allclose(found, volume, atol=0.1)


def test_within_the_slices_it_is_the_turn_of_a_picture() -> None:
    from medvlm.data.warp import apply_warp, make_warp

    volume = np.random.default_rng(0).integers(0, 256, (5, 20, 20), np.uint8)
    tilt = make_tilt((5, 20, 20), (9.0, 1.5, 1.5), (33.0, 0.0, 0.0), 1.0, None, no_moves)
    flat = make_warp((20, 20), 33.0, 1.0, None, no_moves)
    for nearest in (True, False):
        tilted = apply_tilt(volume, tilt, nearest)
        assert all(
            np.abs(tilted[n].astype(int) - apply_warp(volume[n], flat, nearest)).max() <= (0 if nearest else 1)
            for n in range(5)
        )


def test_a_ball_stays_a_ball_as_far_from_the_middle() -> None:
    """Of 9 mm, between slices of 5 mm: turned in voxels, it would be an egg at another distance."""
    volume = np.zeros(SIZE, np.float32)
    places = (np.indices(SIZE).reshape(3, -1).T + 0.5 - np.array(SIZE) / 2) * SPACING
    near = np.linalg.norm(places - (0, 8, 10), axis=1) < 9
    volume.reshape(-1)[near] = 1
    found = apply_tilt(volume, tilt_of((0.0, 40.0, 40.0)), nearest=True).reshape(-1) > 0
    assert found.sum() == pytest.approx(near.sum(), rel=0.15)
    centre = places[found].mean(0)
    assert np.linalg.norm(centre) == pytest.approx(np.linalg.norm((0, 8, 10)), abs=1.0) and abs(centre[0]) > 3
    assert np.linalg.norm(places[found] - centre, axis=1).max() == pytest.approx(9, abs=3)


@pytest.mark.parametrize("planes", [0, 2], ids=["one map of labels", "masks that overlap"])
def test_masks_go_where_the_voxels_go_and_the_spacing_stays(planes: int) -> None:
    for seed in range(20):
        mask = np.zeros((planes, *SIZE) if planes else SIZE, np.uint8)
        mask[..., 4:10, 10:30, 8:24] = 1 if planes else seed % 3 + 1
        volume = np.ascontiguousarray(np.moveaxis(np.concatenate([mask, mask[:1]]), 0, -1)) if planes else mask
        volume = volume * np.uint8(60)
        moved, after, masks = augment(volume, sample_of(SIZE, MASK), Augment(**ALL), draw(seed), {"m": mask})
        assert after.media[0].size == SIZE == moved.shape[:3] and after.media[0].spacing_mm == SPACING
        seen = np.moveaxis(moved, -1, 0)[:planes] if planes else moved
        assert masks["m"].shape == mask.shape and masks["m"].any()
        assert ((seen >= volume.max() / 2) == (masks["m"] > 0)).mean() > 0.96, "all but some of its surface"
        again = augment(volume, sample_of(SIZE, MASK), Augment(**ALL), draw(seed), {"m": mask})
        assert np.array_equal(again[0], moved) and np.array_equal(again[2]["m"], masks["m"])
        assert not np.array_equal(moved, augment(volume, sample_of(SIZE, MASK), Augment(**ALL), draw(seed + 99), {})[0])


def test_a_box_holds_what_it_held_in_all_slices() -> None:
    box, kept = (8.0, 10.0, 24.0, 30.0), 0
    where = Question("Where?", make_truth("boxes", boxes=(box,), label="a"), "boxes")
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 10:30, 8:24] = 1
    for seed in range(20):
        _, after, masks = augment(mask, sample_of(SIZE, where), Augment(tilt_deg=20), draw(seed), {"m": mask})
        truth: Any = after.questions[0].truth
        if np.array_equal(masks["m"], mask):
            continue
        rows, columns = (np.flatnonzero(np.any(masks["m"], axis=axes)) for axes in ((0, 2), (0, 1)))
        kept += 1
        (found,) = truth.boxes
        # Beyond the first and last slice, what is repeated is no part of the box.
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert x1 <= found[0] and y1 <= found[1] and found[2] <= x2 and found[3] <= y2
        assert (found[2] - found[0]) * (found[3] - found[1]) >= 0.6 * (x2 - x1) * (y2 - y1)
    assert kept > 5


def test_questions_about_slices_by_number_are_not_tilted() -> None:
    numbered = make_truth("indexed_boxes", boxes=((8.0, 10.0, 24.0, 30.0),), numbers=(3,), of="slice", label="a")
    volume = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    sample = sample_of(SIZE, Question("On which slice?", numbered, "slice"))
    pixels, same, _ = augment(volume, sample, Augment(tilt_deg=20), draw(1))
    assert np.array_equal(pixels, volume) and same == sample
    assert not np.array_equal(augment(volume, sample, Augment(rotate_deg=20), draw(1))[0], volume)


def test_pictures_are_not_tilted_and_a_tilt_changes_no_other_number() -> None:
    film = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    sample = Sample("k", "films", "train", (Medium("film", "0.png", (20, 30)),))
    change: dict[str, Any] = {"flip": True, "rotate_deg": 30, "noise": 0.1}
    plain, tilted = (augment(film, sample, Augment(**change, tilt_deg=degrees), draw(5))[0] for degrees in (0, 20))
    assert np.array_equal(plain, tilted)
    volume = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    still = [
        augment(volume, sample_of(SIZE, MASK), Augment(flip=True, noise=0.1, tilt_deg=degrees), draw(5))[0]
        for degrees in (0, 1e-9)
    ]
    assert np.array_equal(still[0], still[1])


def test_a_volume_without_a_spacing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.ct\.augment\.tilt_deg: sample k has no spacing.*remove `tilt_deg`"):
        augment(np.zeros(SIZE, np.uint8), sample_of(SIZE, MASK, spacing=None), Augment(tilt_deg=5), draw(0), {})
