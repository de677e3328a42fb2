"""Masks as text and back, their overlap against MONAI, and what a decoder is trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.decoder_config import MISSING, UNCERTAIN, join_background
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure
from medvlm.core.sample import Medium
from medvlm.tasks import mask
from medvlm.tasks._mask_measures import TOLERANCE
from medvlm.tasks._runs import read_runs, write_runs
from medvlm.tasks.mask import Truth

DICE, IOU, NSD, HD95, VOLUME = mask.MEASURES[:5]
MARKED, EMPTY = (next(m for m in mask.MEASURES if m.metric == name) for name in ("iou_marked", "left_empty"))


def blobs(rng: np.random.Generator, planes: int, size: tuple[int, ...]) -> np.ndarray:
    """Blocks of random places and sizes; some planes stay empty, some are full."""
    found = np.zeros((planes, *size), bool)
    for plane in found:
        kind = rng.integers(0, 8)
        if kind == 0:
            continue
        low = [int(rng.integers(0, side)) for side in size]
        spans: Any = tuple(slice(at, at + int(rng.integers(1, side + 1))) for at, side in zip(low, size, strict=True))
        plane[spans if kind > 1 else ...] = True
    return found


def columns(measure: Measure, answer: Any, truth: Truth) -> list[float]:
    by_class: Any = measure.columns(answer, truth)
    return [value for value, _ in by_class.values()]


def test_planes_come_back_from_text() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(int(n) for n in rng.integers(1, 12, rng.integers(2, 4)))
        planes = blobs(rng, int(rng.integers(1, 4)), size)
        text = write_runs(list(planes))
        back = read_runs(text, len(planes), size)
        assert back is not None and back.dtype == bool and np.array_equal(back, planes)
        assert read_runs(text, len(planes) + 1) is None and read_runs(text, len(planes), (*size[:-1], 99)) is None


def test_text_is_small() -> None:
    """A disk of 352 x 352 pixels."""
    y, x = np.mgrid[:352, :352]
    assert len(write_runs([(y - 150) ** 2 + (x - 200) ** 2 < 90**2])) < 1500


def test_dice_and_iou_are_monais_with_two_empty_masks_alike() -> None:
    from monai.metrics import compute_dice, compute_iou

    rng = np.random.default_rng(1)
    names, empty = ("a", "b", "c"), 0
    for _ in range(200):
        found, true = (blobs(rng, 3, (9, 11)) for _ in range(2))
        truth, answer = Truth(classes=names, member="0.mask.png", runs=write_runs(list(true))), write_runs(list(found))
        tensors = [torch.from_numpy(planes[None]) for planes in (found, true)]
        for measure, theirs in ((DICE, compute_dice), (IOU, compute_iou)):
            expected = theirs(*tensors, ignore_empty=False)[0].tolist()
            both = [not f.any() and not t.any() for f, t in zip(found, true, strict=True)]
            empty += sum(both)
            expected = [1.0 if none else value for none, value in zip(both, expected, strict=True)]
            assert columns(measure, answer, truth) == pytest.approx(expected)
        assert mask.score(answer, truth) == pytest.approx(np.mean(columns(DICE, answer, truth)))
    assert empty > 20


def test_what_is_there_and_what_is_not_are_measured_apart() -> None:
    """The IoU of what is there is MONAI's, which leaves empty truths out; what is not there is counted by hand."""
    from monai.metrics import compute_iou

    rng, names = np.random.default_rng(6), ("a", "b", "c")
    sides = set[bool]()
    for _ in range(100):
        found, true = (blobs(rng, 3, (9, 11)) for _ in range(2))
        truth, answer = Truth(classes=names, member="0.mask.png", runs=write_runs(list(true))), write_runs(list(found))
        theirs = compute_iou(*(torch.from_numpy(planes[None]) for planes in (found, true)), ignore_empty=True)[0]
        there = {name: float(each) for name, each in zip(names, theirs, strict=True) if not each.isnan()}
        by_class: Any = MARKED.columns(answer, truth)
        assert {name: value for name, (value, _) in by_class.items()} == pytest.approx(there)
        empty = {n: 0.0 if f.any() else 1.0 for n, f, t in zip(names, found, true, strict=True) if not t.any()}
        assert EMPTY.columns(answer, truth) == {name: (value, 1.0) for name, value in empty.items()}
        sides |= {value == 1 for value in empty.values()}
    assert sides == {True, False}
    absent = Truth(classes=("a",), runs="4x4 ")
    assert EMPTY.columns("I cannot tell", absent) == {"a": (0.0, 1.0)} and MARKED.columns("4x4 ", absent) == {}


SPACINGS = [(1.0, 1.0), (0.5, 3.0), (2.0, 0.7, 1.3)]


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_distances_are_monais_and_empty_masks_are_far(spacing: tuple[float, ...]) -> None:
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    rng, size = np.random.default_rng(3), (9, 11, 7)[: len(spacing)]
    longest, empty = float(np.linalg.norm((np.array(size) - 1) * spacing)), 0
    for _ in range(25):
        found, true = (blobs(rng, 3, size) for _ in range(2))
        truth = Truth(classes=("a", "b", "c"), runs=write_runs(list(true)), spacing_mm=spacing)
        tensors = [torch.from_numpy(planes[None].astype(np.float32)) for planes in (found, true)]
        shares = compute_surface_dice(*tensors, [TOLERANCE] * 3, include_background=True, spacing=spacing)[0]
        far = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)[0]
        told = [columns(measure, write_runs(list(found)), truth) for measure in (NSD, HD95)]
        for number, (one, other) in enumerate(zip(found, true, strict=True)):
            none = not one.any() and not other.any()
            empty += none
            expected = (1.0, 0.0) if none else (0.0, longest) if not (one.any() and other.any()) else None
            expected = expected or (float(shares[number]), float(far[number]))
            assert (told[0][number], told[1][number]) == pytest.approx(expected, abs=1e-5)
    assert empty > 1


def test_touching_and_single_pixels_by_hand() -> None:
    """Pixels of 3 x 1 mm; one pixel beside another, and one two rows below it."""
    truth = Truth(classes=("a",), runs="4x4 5,1,10", spacing_mm=(3.0, 1.0))
    for answer, nsd, hd95 in (("4x4 5,1,10", 1.0, 0.0), ("4x4 6,1,9", 1.0, 1.0), ("4x4 13,1,2", 0.0, 6.0)):
        assert [columns(measure, answer, truth)[0] for measure in (NSD, HD95)] == [nsd, pytest.approx(hd95)]
    for unread in ("I cannot tell", "4x4 5,1", None):
        assert [columns(measure, unread, truth)[0] for measure in (NSD, VOLUME)] == [0, 0]
        assert columns(HD95, unread, truth)[0] == pytest.approx(np.hypot(9, 3))


def test_volumes_are_compared_as_their_formula_says() -> None:
    truth = Truth(classes=("a", "b"), runs="2x4 0,3,5|")
    assert columns(VOLUME, "2x4 7,1|", truth) == [pytest.approx(1 - 2 / 4), 1.0]
    assert columns(VOLUME, "2x4 |0,2,6", truth) == [0.0, 0.0]


def test_the_best_constant_of_a_measure_is_at_least_as_good_as_the_others() -> None:
    rng = np.random.default_rng(5)
    planes = [np.zeros((12, 12), bool) for _ in range(12)]
    for number, plane in enumerate(planes):
        y, x = rng.integers(0, 6, 2)
        plane[y : y + 4 + number % 3, x : x + 5] = True
    truths = [Truth(classes=("a",), runs=write_runs([plane])) for plane in planes]
    constants = {each.metric: mask.best_constant(truths, each) for each in mask.MEASURES[:5]}
    assert mask.best_constant(truths) == constants["dice"] and len(set(constants.values())) > 1
    for measure in mask.MEASURES[:5]:
        means = {name: np.mean([columns(measure, text, t)[0] for t in truths]) for name, text in constants.items()}
        best = max(means.values()) if measure.better == "higher" else min(means.values())
        tried = means[measure.metric]
        assert tried == pytest.approx(best, abs=0.02 if measure in (NSD, HD95) else 1e-9), measure.metric


def test_unmarked_pixels_count_for_nothing() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        found, true, (unmarked,) = blobs(rng, 2, (8, 8)), blobs(rng, 2, (8, 8)), blobs(rng, 1, (8, 8))
        kept = np.flatnonzero(~unmarked)
        if not len(kept):
            continue
        truth = Truth(classes=("a", "b"), unmarked=9, runs=write_runs([*true, unmarked]))
        line = [planes.reshape(2, -1)[:, kept].reshape(2, 1, -1) for planes in (found, true)]
        alone = Truth(classes=("a", "b"), runs=write_runs(list(line[1])))
        assert columns(IOU, write_runs(list(found)), truth) == columns(IOU, write_runs(list(line[0])), alone)


LABELS = np.array([[0, 1, 1], [2, 2, 255]], np.uint8)
FLAT = Truth(classes=("liver", "spleen"), member="0.mask.png", unmarked=255)
PLANES = np.array([[[1, 1, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 0]]], np.uint8)
STACKED = Truth(classes=("lung", "heart"), member="0.mask.npy", overlapping=True)


def test_a_decoder_of_exclusive_classes_is_trained_on_their_numbers() -> None:
    masks = {"0.mask.png": LABELS}
    assert mask.target(FLAT, masks, ["liver", "spleen"], True).tolist() == [[0, 1, 1], [2, 2, MISSING]]
    assert mask.target(FLAT, masks, ["spleen", "liver"], True).tolist() == [[0, 2, 2], [1, 1, MISSING]]
    assert mask.target(FLAT, masks, ["spleen"], True).tolist() == [[0, 0, 0], [1, 1, MISSING]]
    both = mask.target(STACKED, {"0.mask.npy": PLANES}, ["lung", "heart"], True)
    assert both.tolist() == [[1, 2, 2], [0, 0, 0]] and both.dtype == np.int64


def test_a_decoder_of_other_classes_is_trained_on_a_plane_for_each() -> None:
    both = mask.target(STACKED, {"0.mask.npy": PLANES}, ["heart", "lung"], False)
    assert both.tolist() == PLANES[::-1].tolist()
    partly = mask.target(FLAT, {"0.mask.png": LABELS}, ["kidney", "spleen"], False)
    assert (partly[0] == MISSING).all() and partly[1].tolist() == [[0, 0, 0], [1, 1, MISSING]]


def test_a_class_that_the_mask_does_not_speak_of_may_be_where_it_marks_nothing() -> None:
    rest = join_background([1, 2])
    labels = mask.target(FLAT, {"0.mask.png": LABELS}, ["liver", "kidney", "heart"], True)
    assert labels.tolist() == [[rest, 1, 1], [rest, rest, MISSING]] and rest == UNCERTAIN - 0b110
    with pytest.raises(DataError, match="speaks of liver, spleen, and of no class of the decoder"):
        mask.target(FLAT, {"0.mask.png": LABELS}, ["kidney"], True)
    many = ["liver", *map(str, range(61))]
    assert mask.target(FLAT, {"0.mask.png": LABELS}, many[:61], True).min() == UNCERTAIN - (2**61 - 2)
    with pytest.raises(DataError, match="not of '0', which a decoder of more than 61 exclusive classes needs"):
        mask.target(FLAT, {"0.mask.png": LABELS}, many, True)


@pytest.mark.parametrize(
    ("truth", "pixels", "message"),
    [
        (FLAT, LABELS + np.uint8(1), r"0\.mask\.png: label 3, and the mask is of 2 classes"),
        (STACKED, PLANES[:1], r"0\.mask\.npy: 1 planes, and the mask is of 2 classes"),
        (STACKED, PLANES * np.uint8(2), r"0\.mask\.npy: label 2, and the mask is of 2 classes"),
    ],
)
def test_a_mask_of_other_labels_than_its_truth_says_is_refused(truth: Truth, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mask.hold(truth, {truth.member: pixels})


def test_what_is_held_is_read_by_the_measures() -> None:
    held = mask.hold(FLAT, {"0.mask.png": LABELS})
    assert mask.score(write_runs([LABELS == 1, LABELS == 2]), held) == 1
    assert Truth.from_json(held.to_json()) == held


def test_a_decoder_answers_with_the_most_probable_class_of_each_pixel() -> None:
    probabilities = np.array([[[0.5, 0.2]], [[0.3, 0.3]], [[0.2, 0.5]]])
    held = Truth(classes=("liver", "spleen"), runs="1x2 |")
    assert mask.decode(probabilities, held, ["spleen", "liver"], True) == write_runs(
        [np.array([[0, 1]]), np.zeros((1, 2))]
    )
    assert mask.decode(probabilities[1:], held, ["liver", "kidney"], False) == "1x2 |"
    assert mask.decode(probabilities[1:] * 2, held, ["kidney", "spleen"], False) == "1x2 |1,1"


@pytest.mark.parametrize("measure", [None, DICE, IOU])
def test_no_threshold_of_the_mean_mask_makes_a_better_constant(measure: Measure | None) -> None:
    rng = np.random.default_rng(3)
    planes = [blobs(rng, 2, (6, 7)) for _ in range(15)]
    truths = [Truth(classes=("a", "b"), member="0.mask.png", runs=write_runs(list(p))) for p in planes]
    best = mask.best_constant(truths, measure)
    judged = measure or DICE

    def value(answer: str) -> float:
        return float(np.mean([columns(judged, answer, truth) for truth in truths]))

    share = np.mean(planes, axis=0)
    others = [write_runs([share[0] > a / 15, share[1] > b / 15]) for a in range(-1, 16) for b in range(-1, 16)]
    assert value(best) == pytest.approx(max(map(value, others)))


def test_a_mask_is_of_the_first_medium() -> None:
    media = [Medium("film", "0.png", (4, 4)), Medium("film", "1.png", (4, 4))]
    mask.check(FLAT, media)
    for wrong in (Truth(classes=("a",), member="1.mask.png"), Truth(classes=("a",)), Truth(member="0.mask.png")):
        with pytest.raises(DataError):
            mask.check(wrong, media)
    assert FLAT.members == ("0.mask.png",) and FLAT.rename({"0.mask.png": "0.mask.npy"}).members == ("0.mask.npy",)
