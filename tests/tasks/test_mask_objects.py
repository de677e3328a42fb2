"""Objects in masks: their measures against torchmetrics, MONAI and loops over pairs, and cases by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.errors import DataError
from medvlm.core.measure import Measure
from medvlm.metrics.bootstrap import value
from medvlm.tasks import mask
from medvlm.tasks._candidates import HIGHEST, LOWEST, RATES, find_candidates
from medvlm.tasks._marked import read_mask
from medvlm.tasks._objects import label_components
from medvlm.tasks._runs import drop_candidates, read_numbers, write_numbers, write_runs
from medvlm.tasks.mask import Truth

MEASURES = {measure.metric: measure for measure in mask.MEASURES}
ONE = ("cell",)


def make_truth(labels: np.ndarray, classes: tuple[str, ...] = ONE, unmarked: int | None = None, **more: Any) -> Truth:
    truth = Truth(classes=classes, member="0.mask.png", objects=True, unmarked=unmarked)
    truth = mask.hold(truth, {"0.mask.png": labels}, more.get("spacing_mm"))
    assert truth.numbered
    return truth


def say(*planes: np.ndarray, candidates: str = "") -> str:
    return " ".join(filter(None, (write_runs(planes), candidates)))


def columns(metric: str, answer: Any, truth: Truth, name: str = "cell") -> tuple[float, ...]:
    found: Any = MEASURES[metric].columns(answer, truth)
    return found[name]  # type: ignore[no-any-return]


def measure(metric: str, answers: list[Any], truths: list[Truth], name: str = "cell") -> float:
    own: Measure = MEASURES[metric]
    return value(
        np.array([columns(metric, a, t, name) for a, t in zip(answers, truths, strict=True)], float), own.statistic
    )


def draw(rng: np.random.Generator, size: tuple[int, ...], most: int = 6) -> np.ndarray:
    """Blocks, numbered from 1, which may touch; 0 to `most` of them."""
    labels = np.zeros(size, np.int64)
    for number in range(1, int(rng.integers(0, most + 1)) + 1):
        low = [int(rng.integers(0, side)) for side in size]
        labels[tuple(slice(at, at + int(rng.integers(1, 5))) for at in low)] = number
    return labels


def shake(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Marked pixels of an answer that is partly right."""
    moved = np.roll(labels > 0, int(rng.integers(0, 2)), int(rng.integers(0, labels.ndim)))
    return (moved ^ (rng.random(labels.shape) < 0.01)) & (rng.random() < 0.95)


def draw_pairs(seed: int, size: tuple[int, ...], count: int = 40) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        labels = draw(rng, size)
        yield labels, shake(rng, labels)


SIZES = [(17, 13), (7, 9, 8)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_panoptic_quality_is_that_of_torchmetrics(size: tuple[int, ...]) -> None:
    from torchmetrics.detection import PanopticQuality

    theirs = PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
    answers, truths = [], []
    for labels, found in draw_pairs(1, size):
        answers.append(say(found))
        truths.append(make_truth(labels))
        flat = size if len(size) == 2 else (size[0], -1)  # it takes images; what is an object is decided before
        pairs = [np.stack([each > 0, each], -1).reshape(1, *flat, 2) for each in (label_components(found), labels)]
        theirs.update(*(torch.from_numpy(each.astype(np.int64)) for each in pairs))
    pq, sq, rq = theirs.compute().reshape(-1, 3)[0].tolist()  # things come first
    told = [measure(metric, answers, truths) for metric in ("pq", "sq", "object_f1")]
    assert told == pytest.approx([pq, sq, rq], abs=1e-6) and 0.1 < pq < 0.9


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_aji_and_hits_are_those_of_loops_over_pairs(size: tuple[int, ...]) -> None:
    seen: set[str] = set()
    for labels, plane in draw_pairs(2, size):
        found, truth = label_components(plane), make_truth(labels)
        objects, others = ([each == n for n in np.unique(each[each > 0])] for each in (labels, found))
        shared, joint, used, hits = 0, 0, set(), 0
        for one in objects:
            best = max(range(len(others)), key=lambda n: (one & others[n]).sum() / (one | others[n]).sum(), default=-1)
            if best >= 0 and (one & others[best]).any():
                shared, joint = shared + (one & others[best]).sum(), joint + (one | others[best]).sum()
                used.add(best)
                hits += 1
            else:
                joint += one.sum()
        joint += sum(other.sum() for n, other in enumerate(others) if n not in used)
        expected = shared / joint if objects or others else 1.0
        answer = say(plane)
        assert measure("aji", [answer], [truth]) == pytest.approx(expected, abs=1e-9)
        assert columns("hit_rate", answer, truth) == (hits, len(objects))
        alarms = sum(not (other & (labels > 0)).any() for other in others)
        assert columns("false_alarms", answer, truth) == (alarms, 1.0)
        seen |= {"alarm"} if alarms else set()
        seen |= {"miss"} if hits < len(objects) else set()
        seen |= {"none"} if not objects else set()
    assert seen == {"alarm", "miss", "none"}


def test_the_froc_score_is_monais() -> None:
    from monai.metrics import compute_froc_curve_data, compute_froc_score

    answers, truths, alarms, hits, objects = [], [], [], [], 0
    rng = np.random.default_rng(3)
    for labels, _ in draw_pairs(3, (20, 24), 30):
        probabilities = rng.random(labels.shape) ** 4 * np.where(labels > 0, 1, 0.9)
        truth = make_truth(labels)
        answers.append(mask.decode(np.stack([1 - probabilities, probabilities]), truth, ONE, True))
        truths.append(truth)
        best: dict[int, float] = {}
        for at, score in find_candidates(probabilities):
            number = int(labels.ravel()[at])
            if number:
                best[number] = max(best.get(number, LOWEST), score)
            else:
                alarms.append(score)
        count = len(np.unique(labels[labels > 0]))
        objects += count
        hits += [*best.values(), *([LOWEST - 1] * (count - len(best)))]
    # MONAI leaves the lowest score out, so that of a candidate below all is added.
    curve = compute_froc_curve_data(np.array([*alarms, LOWEST - 2]), np.array(hits), objects, len(truths))
    expected = compute_froc_score(*curve, RATES)
    assert measure("froc", answers, truths) == pytest.approx(expected, abs=1e-9) and 0.1 < expected < 0.95
    assert len(set(alarms)) > 20 and objects > 50


def by_hand(*rows: str) -> np.ndarray:
    return np.array([[int(each) for each in row] for row in rows])


TOUCHING = by_hand("1122", "1122", "0000", "3000")


def test_objects_by_hand() -> None:
    """Two objects of four pixels that touch, and one of a single pixel."""
    truth = make_truth(TOUCHING)
    merged = say(TOUCHING > 0)  # one component of 8 pixels and one of 1
    told = {metric: measure(metric, [merged], [truth]) for metric in ("object_f1", "pq", "sq", "hit_rate")}
    # An IoU of exactly one half is no match, so only the single pixel is.
    assert told == pytest.approx({"object_f1": 2 / 5, "pq": 2 / 5, "sq": 1.0, "hit_rate": 1.0})
    assert measure("aji", [merged], [truth]) == pytest.approx((4 + 4 + 1) / (8 + 8 + 1))
    assert measure("false_alarms", [merged], [truth]) == 0
    perfect = [say(TOUCHING == 1), say(by_hand("1102", "1102", "0000", "0000") > 0)]
    assert measure("object_f1", perfect, [truth, truth]) == pytest.approx(2 * (1 + 1) / (1 + 2 + 3 + 3))


def test_what_empty_masks_mean() -> None:
    none, some = make_truth(np.zeros((4, 4), np.int64)), make_truth(TOUCHING)
    nothing, wrong = "4x4 ", say(by_hand("0000", "0000", "0000", "0011") > 0)
    for metric in ("object_f1", "pq", "sq", "hit_rate", "froc"):
        assert np.isnan(measure(metric, [nothing], [none])), metric
    assert measure("aji", [nothing], [none]) == 1 and measure("aji", [wrong], [none]) == 0
    assert measure("false_alarms", [nothing, wrong], [none, none]) == 0.5
    assert (
        measure("object_f1", [wrong, nothing], [none, some]) == measure("hit_rate", [wrong, nothing], [none, some]) == 0
    )
    assert np.isnan(measure("sq", [nothing], [some])) and measure("froc", [nothing], [some]) == 0
    for unread in ("I cannot tell", None, "4x4 0,4", "2x2 "):
        told = [measure(metric, [unread], [some]) for metric in ("object_f1", "pq", "aji", "hit_rate", "froc")]
        assert told == [0] * 5 and measure("false_alarms", [unread], [some]) == 1


def test_classes_have_objects_of_their_own_and_unmarked_pixels_count_for_nothing() -> None:
    """Labels: class 0 is 1, 3, 5 ..., class 1 is 2, 4, 6 ..."""
    labels = by_hand("1033", "1000", "2299", "0000")
    truth = make_truth(labels, ("a", "b"), unmarked=9)
    planes, unmarked = read_mask(truth, labels)
    assert np.array_equal(planes, [(labels == 1) | (labels == 3), labels == 2]) and unmarked is not None
    answer = say((labels == 1) | (labels == 9), labels == 2)
    assert [measure("object_f1", [answer], [truth], name) for name in ("a", "b")] == pytest.approx([2 / 3, 1])
    assert mask.target(truth, {"0.mask.png": labels}, ("b", "a"), True)[:3, 0].tolist() == [2, 2, 1]
    with pytest.raises(DataError, match="classes overlap, so a pixel has no single object"):
        mask.check(Truth(classes=ONE, member="0.mask.npy", overlapping=True, objects=True), ())


def test_one_pixel_and_anisotropic_volumes_have_an_error_in_ml() -> None:
    labels = np.zeros((4, 5, 6), np.int64)
    labels[1, 1, 1:4] = 1
    truth = make_truth(labels, spacing_mm=(5.0, 2.0, 0.5))
    told = MEASURES["volume_error_ml"]
    assert told.is_about("t", truth) and not told.is_about("t", make_truth(TOUCHING, spacing_mm=(1.0, 1.0)))
    one = np.zeros(labels.shape, bool)
    one[0, 0, 0] = True
    for plane, expected in ((labels > 0, 0), (one, 2), (np.zeros_like(one), 3), (~one, 116)):
        assert measure("volume_error_ml", [say(plane)], [truth]) == pytest.approx(expected * 5 / 1000)
    assert measure("volume_error_ml", ["no idea"], [truth]) == pytest.approx(117 * 5 / 1000)


def test_a_second_reader_is_compared_with_the_first() -> None:
    one, other = by_hand("1100", "0220", "0000"), by_hand("1110", "0220", "0000")
    truth = Truth(classes=("a", "b"), member="0.mask.png", second="0.mask.second.png")
    held = mask.hold(truth, {"0.mask.png": one, "0.mask.second.png": other})
    planes = np.stack([other == 1, other == 2]).astype(np.uint8)
    assert mask.hold(truth, {"0.mask.png": one, "0.mask.second.png": planes}) == held
    assert truth.rename({"0.mask.second.png": "x"}).members == ("0.mask.png", "x")
    answer = say(by_hand("1000", "0000", "0000") > 0, by_hand("0000", "0110", "0000") > 0)
    assert measure("dice_second", [answer], [held], "a") == pytest.approx(4 / 5)
    assert measure("dice_beyond_second", [answer], [held], "a") == pytest.approx(2 / 3 - 4 / 5)
    assert measure("dice_beyond_second", [answer], [held], "b") == 0
    about = MEASURES["dice_second"].is_about
    assert about("t", held) and not about("t", truth)


def test_candidates_are_peaks_that_no_higher_threshold_has() -> None:
    """A sure object, a doubtful one beside it, and one that is joined with the sure one below one half."""
    row = np.array([[0.9, 0.3, 0.4, 0.0, 0.12, 0.0, 0.02]])
    odds = {n: int(np.floor(10 * np.log(p / (1 - p)))) for n, p in ((0, 0.9), (4, 0.12))}
    assert dict(find_candidates(row)) == odds
    assert find_candidates(np.zeros((3, 3))) == () and [score for _, score in find_candidates(np.ones((2, 2)))] == [
        HIGHEST
    ]
    truth = make_truth((row > 0.1).astype(np.int64))
    answer = mask.decode(np.stack([1 - row, row]), truth, ONE, True)
    assert answer == f"1x7 0,1,6 0:{odds[0]},4:{odds[4]}" and drop_candidates(answer) == "1x7 0,1,6"
    assert mask.score(answer, truth) == mask.score("1x7 0,1,6", truth) > 0
    assert len(mask.describe(answer, truth).found_masks) == 1


def test_numbers_come_back_from_text() -> None:
    rng = np.random.default_rng(4)
    for size in ((1, 1), (5, 7), (3, 4, 5)):
        for _ in range(20):
            labels = rng.integers(0, 4, size) * rng.integers(1, 9000)
            assert np.array_equal(read_numbers(write_numbers(labels)), labels)
    assert write_numbers(by_hand("0112")) == "1x4 1,2:1,1:2"


@pytest.mark.parametrize("metric", ["object_f1", "aji", "false_alarms", "volume_error_ml"])
def test_the_best_constant_is_at_least_as_good_as_one_for_dice(metric: str) -> None:
    truths = [make_truth(labels, spacing_mm=(1.0, 1.0, 2.0)) for labels, _ in draw_pairs(5, (4, 12, 12), 8)]
    sign = 1 if MEASURES[metric].better == "higher" else -1
    own, other = (mask.best_constant(truths, MEASURES[each]) for each in (metric, "dice"))
    assert sign * measure(metric, [own] * 8, truths) >= sign * measure(metric, [other] * 8, truths)
