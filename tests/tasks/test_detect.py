"""Boxes with scores: measures against torchmetrics and MONAI, and geometry on painted pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core import geometry
from medvlm.core.decoder_config import MISSING, MOST_BOXES
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium
from medvlm.metrics.bootstrap import value
from medvlm.tasks import detect
from medvlm.tasks._detections import LOWEST, MEASURES, count_levels, find_froc, find_iou, match, read, write_found
from medvlm.tasks._writing import Writing

CLASSES = ("RBC", "WBC")


def draw(seed: int, images: int = 12) -> tuple[list[str], list[detect.Truth]]:
    """Boxes near true ones, of distinct levels, and others in vain; some images have no object."""
    rng = np.random.default_rng(seed)
    answers, truths = [], []
    levels = iter(rng.permutation(np.arange(LOWEST, LOWEST + 200)).tolist() * 4)
    for number in range(images):
        boxes, of, found = [], [], ["", ""]
        for place in range(0 if number == 3 else int(rng.integers(1, 6))):
            x, y = 40.0 * place, float(rng.integers(0, 60))
            boxes.append((x, y, x + 20, y + 30))
            of.append(int(rng.integers(2)))
            if rng.random() < 0.8:
                dx, dy = rng.integers(-9, 10, 2).tolist()
                found[of[-1]] += f";{x + dx},{y + dy},{x + dx + 20},{y + dy + 30}:{next(levels)}"
        for _ in range(int(rng.integers(0, 4))):
            x, y = rng.integers(0, 200, 2).tolist()
            found[int(rng.integers(2))] += f";{x},{y},{x + 15},{y + 15}:{next(levels)}"
        answers.append("|".join(each.strip(";") for each in found))
        truths.append(detect.Truth(classes=CLASSES, boxes=tuple(boxes), of=tuple(of)))
    return answers, truths


def measure(metric: str, answers: list[str], truths: list[detect.Truth], name: str) -> float:
    (own,) = (each for each in MEASURES if each.metric == metric)
    columns: Any = own.columns
    return value(np.array([columns(*each)[name] for each in zip(answers, truths, strict=True)]), own.statistic)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_torchmetrics(seed: int) -> None:
    from torchmetrics.detection import MeanAveragePrecision

    answers, truths = draw(seed)
    for metric, least in (("map_10", 0.1), ("map_50", 0.5)):
        theirs = MeanAveragePrecision(iou_thresholds=[least], class_metrics=True)
        for answer, truth in zip(answers, truths, strict=True):
            found = read(answer, 2)
            assert found is not None
            boxes = [(box, level, number) for number, own in enumerate(found) for box, level in own]
            theirs.update(
                [
                    {
                        "boxes": torch.tensor([box for box, *_ in boxes]).reshape(-1, 4),
                        "scores": torch.tensor([float(level) for _, level, _ in boxes]),
                        "labels": torch.tensor([number for *_, number in boxes], dtype=torch.int64),
                    }
                ],
                [
                    {
                        "boxes": torch.tensor(truth.boxes).reshape(-1, 4),
                        "labels": torch.tensor(truth.of, dtype=torch.int64),
                    }
                ],
            )
        expected = theirs.compute()["map_per_class"].tolist()
        ours = [measure(metric, answers, truths, name) for name in CLASSES]
        assert ours == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_froc_score_is_monais(seed: int) -> None:
    from monai.metrics import compute_froc_curve_data, compute_froc_score

    answers, truths = draw(seed)
    for number, name in enumerate(CLASSES):
        right, false, objects = [], [], 0
        for answer, truth in zip(answers, truths, strict=True):
            own = [box for box, of in zip(truth.boxes, truth.of, strict=True) if of == number]
            objects += len(own)
            found = read(answer, 2)
            assert found is not None
            for level, is_right in match(found[number], own, 0.1):
                (right if is_right else false).append(float(level))
        # MONAI leaves out the lowest threshold: one that is below all of them.
        rates, sensitivity = compute_froc_curve_data(np.array([*false, -1e3]), np.array(right), objects, len(answers))
        expected = compute_froc_score(rates, sensitivity, (0.125, 0.25, 0.5, 1, 2, 4, 8))
        assert measure("froc_10", answers, truths, name) == pytest.approx(float(expected), abs=1e-6)


def test_froc_by_hand() -> None:
    """Two images, two objects: the surest box is right, then one is false, then one is right."""
    truths = [detect.Truth(classes=("RBC",), boxes=((0, 0, 10, 10),), of=(0,)) for _ in range(2)]
    answers = ["0,0,10,10:30;50,50,60,60:20", "0,0,10,10:10"]
    columns = np.array([count_levels(0.1, *each)["RBC"] for each in zip(answers, truths, strict=True)])
    # At 0.125 and 0.25 false boxes an image one half is found, and from 0.5 on all of them.
    assert find_froc(columns.sum(0, keepdims=True))[0] == pytest.approx((0.5 + 0.5 + 5 * 1.0) / 7)


def test_overlap_of_boxes_and_of_boxes_of_volumes() -> None:
    assert find_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert find_iou((0, 0, 0, 10, 10, 10), (0, 0, 5, 10, 10, 15)) == pytest.approx(1 / 3)
    assert find_iou((0, 0, 10, 10), (0, 0, 0, 10, 10, 10)) == 0 == find_iou((0, 0, 1, 1), (2, 2, 3, 3))


@pytest.mark.parametrize("text", ["", "1,2,3,4:5|", "1,2,3:4|", "3,3,1,1:5|", "nan,0,1,1:5|", "0,0,1,1|", "0,0,1,1:x|"])
def test_what_is_no_answer_is_one_false_box(text: str) -> None:
    truth = detect.Truth(classes=CLASSES, boxes=((1, 2, 3, 4),), of=(0,))
    right = text == "1,2,3,4:5|"
    assert (read(text, 2) is not None) == right and detect.score(text, truth) == float(right)
    columns = count_levels(0.5, text, truth)["RBC"]
    assert sum(columns[:-2]) == 1 and columns[-2:] == (1, 1)


def test_targets_follow_what_the_pixels_go_through() -> None:
    truth = detect.Truth(classes=CLASSES, boxes=((10, 20, 30, 60), (0, 0, 4, 4)), of=(1, 0))
    canvas = geometry.crop((100, 80), 10, 5, (80, 60)).then(geometry.flip((80, 60)))
    canvas = canvas.then(geometry.resize((80, 60), (40, 60)))
    placed = detect.place(truth, canvas, Writing())
    rows = detect.target(placed, {}, ("WBC", "RBC"), False)
    assert rows.shape == (MOST_BOXES, 5) and (rows[1:] == MISSING).all()
    assert rows[0].tolist() == [0, 5, 35, 25, 55]  # the small one is cut off
    painted = np.zeros((100, 80))
    painted[20:60, 10:30] = 1
    seen = painted[10:90, 5:65][:, ::-1][::2]
    assert (np.argwhere(seen == 1).min(0).tolist(), (np.argwhere(seen == 1).max(0) + 1).tolist()) == ([5, 35], [25, 55])
    found = np.full((3, 6), MISSING, np.float32)
    found[0] = [0, 0.9, *rows[0, 1:]]
    assert detect.score(detect.decode(found, placed, ("WBC", "RBC"), False), placed) == 1


def test_boxes_that_do_not_speak_of_a_class_are_refused() -> None:
    truth = detect.Truth(classes=("RBC",), boxes=((0, 0, 4, 4),), of=(0,))
    with pytest.raises(DataError, match="and not of 'WBC'"):
        detect.target(truth, {}, CLASSES, False)
    media = (Medium("smear", "0.png", (10, 10)),)
    detect.check(truth, media)
    with pytest.raises(DataError, match="without a class"):
        detect.check(detect.Truth(classes=("RBC",), boxes=((0, 0, 4, 4),), of=(1,)), media)


def test_a_box_without_an_area_costs_no_other_box_and_large_coordinates_are_whole() -> None:
    text = write_found([[((10.0, 10.0, 30.0, 30.0), 0.9), ((5.001, 5.0, 5.002, 8.0), 0.1)]])
    assert detect.score(text, detect.Truth(classes=("RBC",), boxes=((10, 10, 30, 30),), of=(0,))) == 1
    assert write_found([[((12345.67, 0.0, 12346.25, 8.0), 0.9)]]).startswith("12345.67,0,12346.25,8:")
