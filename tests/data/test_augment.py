"""Augmented boxes are compared with the painted pixels that they enclose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medvlm.core.errors import RecipeError
from medvlm.core.sample import Box, Medium, Question, Sample, make_truth
from medvlm.data.augment import Augment, augment
from medvlm.data.order import draw

SIZE = (60, 90)


def cells(*boxes: Box, extra: tuple[Question, ...] = ()) -> tuple[np.ndarray, Sample]:
    """A black image with a cell of its own grey (1, 2, ...) painted in each box."""
    array = np.zeros(SIZE, np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        array[int(y1) : int(y2), int(x1) : int(x2)] = i + 1
    count = Question("How many?", make_truth("count", str(len(boxes)), count=len(boxes), boxes=boxes), "count")
    where = Question("Where?", make_truth("boxes", boxes=boxes), "boxes")
    medium = Medium("smear", "0.png", SIZE, spacing_mm=(0.5, 0.7))
    return array, Sample("k", "bccd", "train", (medium,), questions=(count, where, *extra), report="three cells")


BOXES = ((5.0, 5.0, 15.0, 25.0), (40.0, 30.0, 60.0, 40.0), (70.0, 2.0, 88.0, 20.0))
YES = Question("Is there a cell?", make_truth("choice", "yes", choices=("yes", "no")), "presence")


def painted(array: np.ndarray) -> dict[int, Box]:
    found = {}
    for grey in set(np.unique(array).tolist()) - {0}:
        ys, xs = np.nonzero(array == grey)
        found[grey] = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    return found


def truths(sample: Sample) -> dict[str, Any]:
    return {q.template: q.truth for q in sample.questions}


@pytest.mark.parametrize(
    "change",
    [{"flip": True}, {"rotate90": True}, {"crop": (0.4, 0.9)}, {"flip": True, "rotate90": True, "crop": (0.3, 1.0)}],
    ids=str,
)
def test_boxes_and_counts_follow_the_pixels(change: dict[str, Any]) -> None:
    sizes = set()
    for seed in range(60):
        array, sample, _ = augment(*cells(*BOXES), Augment(**change), draw(seed))
        assert sample.media[0].size == array.shape
        sizes.add(array.shape)
        seen = painted(array)
        for truth in truths(sample).values():
            assert set(truth.boxes) <= set(seen.values())
            assert list(truth.boxes) == sorted(truth.boxes), "an answer writes them from left to right"
        # A cell that shows less than half of its area is not counted; what is painted beyond the counted ones is that.
        areas = {grey: np.count_nonzero(array == grey) for grey in seen}
        whole = [(b[2] - b[0]) * (b[3] - b[1]) for b in BOXES]
        visible = [grey for grey, area in areas.items() if area >= whole[grey - 1] / 2]
        count = truths(sample)["count"]
        assert count.count == len(count.boxes) == len(visible) and count.answer == str(len(visible))
    assert len(sizes) > 1 or change == {"flip": True}


def test_every_turn_and_both_sides_come_up() -> None:
    array, sample = cells(*BOXES)
    seen = {augment(array, sample, Augment(flip=True, rotate90=True), draw(seed))[0].tobytes() for seed in range(80)}
    assert len(seen) == 8


def test_a_quarter_turn_takes_the_spacing_along() -> None:
    turned = [augment(*cells(*BOXES), Augment(rotate90=True), draw(seed))[1].media[0] for seed in range(10)]
    assert {(m.size, m.spacing_mm) for m in turned} == {(SIZE, (0.5, 0.7)), (SIZE[::-1], (0.7, 0.5))}


def test_after_a_crop_only_what_is_still_true_is_asked() -> None:
    array, sample = cells(*BOXES, extra=(YES,))
    cropped = augment(array, sample, Augment(crop=(0.5, 0.5)), draw(0))[1]
    assert set(truths(cropped)) <= {"count", "boxes"} and "count" in truths(cropped)
    turned = augment(array, sample, Augment(rotate90=True), draw(0))[1]
    assert set(truths(turned)) == {"count", "boxes", "presence"}


def test_of_two_kinds_of_cells_the_one_that_is_gone_is_counted_zero_and_not_located() -> None:
    array, sample = cells((20.0, 10.0, 24.0, 14.0))
    large = Question("Where is the nucleus?", make_truth("boxes", boxes=((0.0, 0.0, 90.0, 60.0),)), "large")
    crops = [
        augment(array, replace(sample, questions=(*sample.questions, large)), Augment(crop=(0.6, 0.6)), draw(seed))[1]
        for seed in range(40)
    ]
    gone = [truths(s) for s in crops if truths(s)["count"].count == 0]
    assert 0 < len(gone) < 40
    assert all(set(t) == {"count", "large"} and t["count"].answer == "0" for t in gone)
    assert all(set(truths(s)) == {"count", "boxes", "large"} for s in crops if truths(s) not in gone)


@pytest.mark.parametrize("change", [{"crop": (0.1, 0.1)}, {"shift_px": 50}], ids=str)
def test_an_image_stays_whole_where_nothing_would_be_left_to_locate(change: dict[str, Any]) -> None:
    """A stage that asks for boxes only could not use such a sample."""
    array, sample = cells((40.0, 30.0, 44.0, 34.0))
    outcomes = []
    for seed in range(60):
        pixels, changed, _ = augment(array, sample, Augment(**change), draw(seed))
        assert truths(changed)["boxes"].boxes
        outcomes.append(np.array_equal(pixels, array) and changed == sample)
    assert any(outcomes) and not all(outcomes)


def test_a_sample_without_counts_and_boxes_is_not_cropped() -> None:
    array, sample = cells(*BOXES)
    report_only = replace(sample, questions=(YES,))
    pixels, same, _ = augment(array, report_only, Augment(crop=(0.2, 0.2)), draw(0))
    assert np.array_equal(pixels, array) and same == report_only


def test_a_count_without_boxes_cannot_be_cropped() -> None:
    array, sample = cells(*BOXES)
    bare = replace(sample, questions=(Question("How many?", make_truth("count", "3", count=3), "count"),))
    with pytest.raises(RecipeError, match=r"data\.bccd\.augment\.crop: sample k .*: count: counts 3 but has 0 boxes"):
        augment(array, bare, Augment(crop=(0.5, 0.9)), draw(0))
    assert augment(array, bare, Augment(rotate90=True), draw(0))[1].questions[0].truth == bare.questions[0].truth


def test_a_shift_moves_boxes_with_the_pixels_within_its_bound() -> None:
    moves = set()
    for seed in range(200):
        array, sample, _ = augment(*cells(BOXES[1]), Augment(shift_px=2), draw(seed))
        assert truths(sample)["boxes"].boxes == (painted(array)[1],)
        box = painted(array)[1]
        moves.add((box[0] - BOXES[1][0], box[1] - BOXES[1][1]))
    assert moves == {(dx, dy) for dx in range(-2, 3) for dy in range(-2, 3)}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_intensities_change_as_asked_and_stay_in_range(dtype: Any) -> None:
    full = np.iinfo(dtype).max
    flat = np.full((200, 200), full // 2, dtype)
    _, sample = cells(*BOXES)
    gains = [augment(flat, sample, Augment(gain=0.2), draw(seed))[0] for seed in range(200)]
    means = np.array([g.mean() / (full / 2) for g in gains])
    assert all(g.dtype == dtype and (g == g[0, 0]).all() for g in gains)
    assert 0.8 <= means.min() < 0.82 and 1.18 < means.max() <= 1.2
    lit = [augment(flat, sample, Augment(brightness=0.9), draw(seed))[0][0, 0] / full for seed in range(50)]
    assert min(lit) == 0 and max(lit) == 1  # cut off, not wrapped round
    noisy = augment(flat, sample, Augment(noise=0.05), draw(0))[0].astype(float) / full
    assert noisy.std() == pytest.approx(0.05, rel=0.02) and noisy.mean() == pytest.approx(0.5, abs=0.003)


def test_nothing_asked_for_nothing_changed() -> None:
    array, sample = cells(*BOXES, extra=(YES,))
    pixels, same, _ = augment(array, sample, Augment(), draw(0))
    assert np.array_equal(pixels, array) and same == sample


def test_shares_of_a_crop_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"two shares of the area in order, e\.g\. \[0\.5, 1\.0\]"):
        Augment(crop=(0.9, 0.5))


@pytest.mark.parametrize("planes", [0, 2], ids=["one map of labels", "masks that overlap"])
def test_masks_go_where_the_pixels_go_through_600_changes(planes: int) -> None:
    """The mask is painted into the image: whatever becomes of the pixels becomes of it. Lighting leaves it alone."""
    shapes = set()
    for seed in range(600):
        rng = np.random.default_rng(seed)
        mask = rng.integers(0, 256, (planes, *SIZE) if planes else SIZE, np.uint8)
        array = np.moveaxis(np.concatenate([mask, mask[:1]]), 0, -1) if planes else mask
        _, sample = cells(*BOXES)
        change = Augment(
            flip=bool(seed & 1),
            rotate90=bool(seed & 2),
            crop=(0.2, 1.0) if seed & 4 else None,
            shift_px=9 if seed & 8 else 0,
        )
        moved, after, masks = augment(array, sample, change, draw(seed), {"0.mask.png": mask})
        found = masks["0.mask.png"]
        assert found.dtype == np.uint8 and found.shape[-2:] == moved.shape[:2] == after.media[0].size
        assert np.array_equal(found, np.moveaxis(moved, -1, 0)[:planes] if planes else moved)
        shapes.add(moved.shape)
        lit = change.model_copy(update={"gain": 0.5, "brightness": 0.3, "noise": 0.1})
        assert np.array_equal(augment(array, sample, lit, draw(seed), {"m": mask})[2]["m"], found)
    assert len(shapes) > 100
