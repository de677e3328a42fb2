"""Turns, zooms, elastic changes and mirrored sides: boxes, masks and words are compared with the pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.data.augment import Augment, augment
from medvlm.data.order import draw
from medvlm.data.warp import apply_warp, make_warp
from tests.data.test_augment import BOXES, SIZE, YES, cells, painted, truths

ALL: dict[str, Any] = {"rotate_deg": 30, "scale": (0.7, 1.4), "elastic": (2, 20)}


def warp_of(size: tuple[int, int], degrees: float = 0.0, zoom: float = 1.0) -> Any:
    return make_warp(size, degrees, zoom, None, np.random.default_rng(0).standard_normal)


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
@pytest.mark.parametrize("nearest", [True, False])
def test_a_turn_by_90_degrees_is_numpys(turns: int, nearest: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256, (31, 31, 3), np.uint8)
    assert np.array_equal(apply_warp(array, warp_of((31, 31), 90 * turns), nearest), np.rot90(array, turns))


def test_a_zoom_shows_the_middle_larger() -> None:
    array = np.zeros((60, 80), np.uint8)
    array[25:35, 35:45] = 200
    larger = apply_warp(array, warp_of((60, 80), zoom=2), nearest=True)
    ys, xs = np.nonzero(larger)
    assert (ys.min(), ys.max() + 1, xs.min(), xs.max() + 1) == (20, 40, 30, 50)


def test_a_box_of_which_less_than_half_is_left_in_a_zoom_is_dropped() -> None:
    """Twice as large, the middle shows the rows 15 to 45 and the columns 20 to 60."""
    warp = warp_of((60, 80), zoom=2)
    assert warp.clip_box((8.0, 25.0, 26.0, 35.0)) is None, "a third of it"
    assert warp.clip_box((12.0, 25.0, 30.0, 35.0)) == (0.0, 20.0, 20.0, 40.0)


@pytest.mark.parametrize("change", [{"rotate_deg": 40}, {"scale": (0.6, 1.6)}, {"elastic": (3, 20)}, ALL], ids=str)
def test_boxes_hold_what_they_held(change: dict[str, Any]) -> None:
    """The bounds of the painted pixels, to a pixel: bilinear pixels at the edge are a mixture."""
    outcomes = set()
    for seed in range(60):
        array, sample = cells(*BOXES)
        array *= 60
        moved, after, masks = augment(array, sample, Augment(**change), draw(seed), {"m": array})
        assert moved.shape == SIZE and after.media[0] == sample.media[0], "a larger patient has the same spacing"
        seen = painted(masks["m"])
        for truth in truths(after).values():
            for box in truth.boxes:
                assert min(np.abs(np.subtract(box, other)).max() for other in seen.values()) <= 1
        outcomes.add(truths(after)["count"].count)
        assert truths(after)["count"].answer == str(len(truths(after)["count"].boxes))
        assert (np.abs(moved.astype(int) - masks["m"]) <= 30).mean() > 0.95, "the mask goes where the pixels go"
    assert 3 in outcomes


def test_colours_slices_and_masks_that_overlap_are_moved_alike() -> None:
    rng = np.random.default_rng(0)
    volume, mask = rng.integers(-1000, 1000, (5, *SIZE)).astype(np.int16), rng.integers(0, 3, (2, 5, *SIZE), np.uint8)
    medium = Medium("ct", "0.npy", volume.shape, (2.0, 1.0, 1.0), "HU")
    sample = Sample("k", "s", "train", (medium,))
    config = Augment(**ALL, flip=True)
    moved, after, masks = augment(volume, sample, config, draw(3), {"m": mask})
    assert after.media == (medium,) and moved.dtype == np.int16 and masks["m"].shape == mask.shape
    for number in range(5):
        alone = replace(sample, media=(Medium("ct", "0.npy", SIZE),))
        own, _, own_mask = augment(volume[number], alone, config, draw(3), {"m": mask[:, number]})
        assert np.array_equal(own, moved[number]) and np.array_equal(own_mask["m"], masks["m"][:, number])
    film = rng.integers(0, 256, (5, *SIZE, 3), np.uint8)
    frames = replace(sample, media=(replace(medium, size=film.shape[:3]),))
    coloured = augment(film, frames, config, draw(3))[0]
    assert np.array_equal(coloured[..., 1], augment(film[..., 1], frames, config, draw(3))[0])


@pytest.mark.parametrize("planes", [0, 2], ids=["one map of labels", "masks that overlap"])
def test_masks_of_volumes_go_where_the_voxels_go(planes: int) -> None:
    """The mask is painted into the volume: whatever becomes of the voxels becomes of it, to the voxel."""
    shapes, size = set(), (12, 30, 20)
    mask_of = Question("Where?", make_truth("mask", member="m", classes=("a",)), "mask")
    for seed in range(200):
        mask = np.random.default_rng(seed).integers(0, 256, (planes, *size) if planes else size, np.uint8)
        volume = np.ascontiguousarray(np.moveaxis(np.concatenate([mask, mask[:1]]), 0, -1)) if planes else mask
        medium = Medium("ct", "0.npy", size, (4.0, 1.0, 0.5))
        sample = Sample("k", "s", "train", (medium,), questions=(mask_of,))
        change = Augment(
            flip=bool(seed & 1), rotate90=bool(seed & 2), crop=(0.2, 0.9) if seed & 4 else None, shift_px=3 * (seed & 8)
        )
        moved, after, masks = augment(volume, sample, change, draw(seed), {"m": mask})
        assert np.array_equal(masks["m"], np.moveaxis(moved, -1, 0)[:planes] if planes else moved)
        assert after.media[0].size == moved.shape[:3] and masks["m"].shape[-3:] == moved.shape[:3]
        is_turned = after.media[0].spacing_mm == (4.0, 0.5, 1.0)
        assert is_turned or after.media[0].spacing_mm == (4.0, 1.0, 0.5)
        if not seed & 4:
            assert moved.shape[:3] == ((12, 20, 30) if is_turned else size)
        again = augment(volume, sample, change, draw(seed), {"m": mask})
        assert np.array_equal(again[0], moved) and again[1] == after
        shapes.add(moved.shape)
    assert len(shapes) > 20, len(shapes)
    assert len({shape[0] for shape in shapes}) > 2, "slices are left out too"


def test_a_crop_of_a_volume_has_its_share_and_anywhere() -> None:
    size, mask_of = (10, 20, 40), Question("Where?", make_truth("mask", member="m", classes=("a",)), "mask")
    place = np.arange(np.prod(size), dtype=np.int32).reshape(size)
    sample = Sample("k", "s", "train", (Medium("ct", "0.npy", size),), questions=(mask_of,))
    firsts = set()
    for seed in range(80):
        moved, after, _ = augment(place, sample, Augment(crop=(0.125, 0.125)), draw(seed), {})
        assert after.media[0].size == moved.shape == (5, 10, 20)
        z, y, x = np.unravel_index(int(moved[0, 0, 0]), size)
        assert np.array_equal(moved, place[z : z + 5, y : y + 10, x : x + 20])
        firsts.add((int(z), int(y), int(x)))
    assert {z for z, _, _ in firsts} == set(range(6)) and len({x for _, _, x in firsts}) > 15


def test_an_image_stays_as_it_is_where_a_question_cannot_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    array, sample = cells(*BOXES)
    monkeypatch.setattr("medvlm.tasks.count.FOLLOWS_WARPS", False)
    find = __import__("medvlm.core.tasks", fromlist=["find_task"]).find_task
    find.cache_clear()
    try:
        pixels, same, _ = augment(array, sample, Augment(**ALL), draw(0))
        assert np.array_equal(pixels, array) and same == sample
    finally:
        find.cache_clear()


def test_one_change_does_not_alter_the_random_numbers_of_another() -> None:
    array, sample = cells(*BOXES, extra=(YES,))
    plain = augment(array, sample, Augment(flip=True, noise=0.1), draw(5))
    still = Augment(flip=True, noise=0.1, rotate_deg=1e-9)
    assert np.array_equal(plain[0], augment(array, sample, still, draw(5))[0])
    bent, bent_and_lit = (
        augment(array, sample, Augment(**ALL, **more), draw(5), {"m": array})[2]["m"]
        for more in ({}, {"gamma": (0.5, 2), "blur_px": 1.0, "bias_field": 0.2, "noise": 0.1})
    )
    assert np.array_equal(bent, bent_and_lit)


# --- sides --------------------------------------------------------------------------------------------


SIDES = (("left", "right"), ("L", "R"))


def test_words_change_sides_where_the_image_is_mirrored() -> None:
    questions = (
        Question("Is the left lung clear?", make_truth("choice", "yes", choices=("yes", "no")), "clear"),
        Question("Which side?", make_truth("choice", "left", choices=("left", "right", "both")), "side"),
        Question("Which?", make_truth("choice", "B", choices=("A", "B"), options=("Left lung", "Right lung")), "which"),
        Question(
            "What?",
            make_truth("labels", classes=("left effusion", "right effusion"), labels=(True, None), exclusive=False),
            "labels",
        ),
        Question("Outline.", make_truth("mask", classes=("left lung", "right lung"), member="0.mask.png"), "lungs"),
        Question("Where?", make_truth("boxes", boxes=((1.0, 1.0, 5.0, 5.0),), label="left nodule"), "boxes"),
    )
    sample = Sample(
        "k", "left", "train", (Medium("film", "0.png", (8, 9)),), "LEFT lung: an R marker.", "left", questions
    )
    array, mask = np.arange(72, dtype=np.uint8).reshape(8, 9), np.zeros((8, 9), np.uint8)
    mask[:, :4] = 1
    seen = set()
    for seed in range(12):
        moved, after, masks = augment(array, sample, Augment(flip=True, sides=SIDES), draw(seed), {"0.mask.png": mask})
        is_mirrored = np.array_equal(moved, array[:, ::-1])
        seen.add(is_mirrored)
        if not is_mirrored:
            assert after == sample
            continue
        found = {q.template: q for q in after.questions}
        assert after.report == "RIGHT lung: an L marker." and (after.source, after.concept) == ("left", "right")
        assert found["clear"].text == "Is the right lung clear?" and found["clear"].truth.answer == "yes"
        side: Any = found["side"].truth
        assert side.answer == "right" and set(side.choices) == {"left", "right", "both"}
        which: Any = found["which"].truth
        assert which.answer == "B" and which.options == ("Right lung", "Left lung")
        labels: Any = found["labels"].truth
        assert dict(zip(labels.classes, labels.labels, strict=True)) == {"right effusion": True, "left effusion": None}
        lungs: Any = found["lungs"].truth
        assert lungs.classes == ("right lung", "left lung") and lungs.member == "0.mask.png"
        assert (masks["0.mask.png"][:, 5:] == 1).all(), "class 1 was the left lung and is the right one now"
        boxes: Any = found["boxes"].truth
        assert boxes.label == "right nodule" and boxes.boxes == ((4.0, 1.0, 8.0, 5.0),)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (1.2, 0.8)}, r"two factors in order, e\.g\. \[0\.8, 1\.25\]"),
        ({"gamma": (0.0, 1.0)}, "two factors in order"),
        ({"elastic": (4, 0)}, "pixels that points move, distance of points"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Augment(**settings)
