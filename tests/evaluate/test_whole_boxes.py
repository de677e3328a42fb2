"""Boxes of several windows and mirror images become one set: against the formula written out, on pixels whose boxes are
known, and from an archive to the rows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medvlm import api
from medvlm.compositions._whole_boxes import find_boxes, join
from medvlm.core.contracts import Preprocess
from medvlm.core.sample import Medium
from medvlm.data.transforms import MediaTransform
from medvlm.models.box_clusters import Seen, cluster, count_windows, weigh_places
from medvlm.models.sliding import Windows
from tests.archive import made_layouts
from tests.tiny_run import trained, written

SIDE = 24


def draw(axes: int, seed: int, count: int = 40) -> Seen:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (count, axes))
    boxes = np.concatenate([low, low + rng.uniform(2, 20, (count, axes))], 1)
    scores, weights, windows = rng.uniform(0, 1, count), rng.uniform(0.3, 1, count), rng.uniform(1, 4, count)
    return Seen(boxes, scores, weights, windows, rng.integers(0, 6, count))


def cluster_by_hand(seen: Seen, networks: int, least: float) -> list[tuple[float, ...]]:
    """Box by box, as the paper's equation 1 and the authors' code have it."""
    axes = seen.boxes.shape[1] // 2

    def volume(box: Any) -> float:
        return float(np.prod([max(box[axes + i] - box[i], 0) for i in range(axes)]))

    def iou(a: Any, b: Any) -> float:
        both = [*np.maximum(a[:axes], b[:axes]), *np.minimum(a[axes:], b[axes:])]
        return volume(both) / (volume(a) + volume(b) - volume(both))

    left, found = sorted(range(len(seen.boxes)), key=lambda n: -seen.scores[n]), []
    while left:
        top = left[0]
        own = [n for n in left if iou(seen.boxes[top], seen.boxes[n]) > least]
        left = [n for n in left if n not in own]
        weight = [iou(seen.boxes[top], seen.boxes[n]) * volume(seen.boxes[n]) * seen.weights[n] for n in own]
        expected = networks * np.mean([seen.windows[n] for n in own])
        missing = max(0, expected - len({seen.views[n] for n in own}))
        by_score = [w * seen.scores[n] for w, n in zip(weight, own, strict=True)]
        score = sum(by_score) / (sum(weight) + missing * np.mean(weight))
        place = sum(w * seen.boxes[n] for w, n in zip(by_score, own, strict=True)) / sum(by_score)
        if score > 0.01:
            found.append((score, *place))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("networks", "least"), [(1, 1e-5), (4, 0.2)])
def test_clusters_are_those_of_the_formula(axes: int, networks: int, least: float) -> None:
    for seed in range(5):
        seen = draw(axes, seed)
        boxes, scores = cluster(seen, networks, least)
        expected = np.array(cluster_by_hand(seen, networks, least))
        assert 1 < len(boxes) < 40
        np.testing.assert_allclose(np.column_stack([scores, boxes]), expected, rtol=1e-9)


def test_a_view_that_found_nothing_lowers_the_score_and_moves_no_box() -> None:
    seen = Seen(np.array([[2.0, 2, 8, 8]]), np.array([0.8]), np.ones(1), np.ones(1), np.zeros(1))
    for networks in (1, 4):
        boxes, scores = cluster(seen, networks)
        assert boxes.tolist() == [[2, 2, 8, 8]] and scores[0] == pytest.approx(0.8 / networks)
    nothing = Seen(np.array([[2.0, 2, 2, 8]]), np.array([0.8]), np.ones(1), np.ones(1), np.zeros(1))
    assert len(cluster(nothing, 1)[0]) == 0


def test_places_and_windows_of_a_box() -> None:
    boxes = np.array([[6.0, 6, 10, 10], [0, 0, 4, 8]])
    assert weigh_places(boxes[:1], (16, 16))[0] == 1
    x, y = np.exp(-(6**2) / (2 * 6.4**2)), np.exp(-(4**2) / (2 * 6.4**2))
    assert weigh_places(boxes, (16, 16))[1] == pytest.approx((x + y) / 2)
    # Windows of 8 pixels from 0, 4 and 8 along the first axis, and one along the other.
    starts = [(0, 0), (4, 0), (8, 0)]
    np.testing.assert_allclose(count_windows(np.array([[6.0, 0, 10, 8]]), starts, (8, 8)), [0.5 + 1 + 0.5])


def find_bright(windows: torch.Tensor) -> torch.Tensor:
    """The box of what is bright in each window, and none where nothing is; it is surer of large ones."""
    answers = torch.full((len(windows), 3, 6), -1.0)
    for answer, (plane, *_) in zip(answers, windows, strict=True):
        rows, columns = (plane > 0.5).nonzero(as_tuple=True)
        if len(rows):
            corners = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            answer[0] = torch.tensor([0.0, min(len(rows) / 40, 0.9), *map(float, corners)])
    return answers


@pytest.mark.parametrize("flips", [(), (1,), (0, 1)])
def test_a_square_of_a_large_image_is_found_once_where_it_is_stored(flips: tuple[int, ...]) -> None:
    """Pixels of 1 mm are read at 2 mm, in windows; the square is 10 x 8 pixels."""
    size = (56, 80)
    image: Any = np.zeros(size, np.uint8)
    image[30:40, 44:52] = 255
    ready = Preprocess(size=(SIDE, SIDE), channels=1, mean=(0.0,), std=(1.0,), spacing_mm=(2.0, 2.0), fit="crop")
    transform = MediaTransform(ready)
    medium = Medium(kind="film", member="0.npy", size=size, spacing_mm=(1.0, 1.0))
    sample: Any = SimpleNamespace(media=(medium,))
    prepare: Any = SimpleNamespace(transforms={"film": transform}, preprocess={"film": ready})
    found = find_boxes(prepare, sample, {"0.npy": image}, "film", Windows(0.5, flips), find_bright)
    assert found.shape == (1, 6) and found[0, 0] == 0
    assert found[0, 2:].tolist() == pytest.approx([30, 44, 40, 52], abs=1.0)
    again = np.array([[0, 0.8, 1, 1, 5, 5, 0], [0, 0.8, 1, 1, 5, 5, 2]])
    (joined,) = join(again, [(0, 0), (10, 10)], (8, 8), 2)
    assert joined.tolist() == pytest.approx([0, 0.8, 1, 1, 5, 5]), "the same window, read twice"


@pytest.mark.slow
def test_boxes_of_an_archive_are_judged_on_their_stored_pixels(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    made_layouts.bccd(root, cases=12, zoom=16)
    encoder = {
        "kind": "timm", "net": "test_resnet", "levels": [-3, -2, -1],
        "preprocess": {"size": [32, 48], "mean": [0.5] * 3, "std": [0.5] * 3},
    }  # fmt: skip
    recipe: dict[str, Any] = {
        "name": "cells",
        "seed": 7,
        "model": {
            "encoders": {"smear": encoder},
            "decoders": {
                "cells": {"kind": "retina", "classes": ["RBC", "WBC", "Platelets"], "width": 8, "least": 0.001}
            },
        },
        "data": {"cells": {"card": "data_cards/bccd_boxes.yaml", "root": str(root), "fold": 0}},
        "stages": [
            {
                "name": "find", "kind": "heads", "mix": {"cells": 1}, "trains": ["decoders"], "steps": 2, "batch": 2,
                "losses": {"cells": ["anchor_boxes"]},
            }
        ],
        "engine": {"device": "cpu", "workers": 1},
        "export": {"target": "custom"},
        "evaluate": {
            "on": ["cells:test"], "bootstrap": 20,
            "protocols": ["predictions", {"kind": "whole_boxes", "mirror": ["height", "width"]}],
        },
    }  # fmt: skip
    path = written(tmp_path, recipe)
    run = trained(path, tmp_path / "runs")
    api.evaluate(run.root, ["cells:test"])
    seen, whole = (
        [json.loads(line) for line in (run.root / "evaluate" / f"{kind}.jsonl").read_text().splitlines()]
        for kind in ("predictions", "whole_boxes")
    )
    assert len(seen) == len(whole) > 0 and {each["key"] for each in seen} == {each["key"] for each in whole}
    rows = json.loads(run.results.read_text())
    assert {"map_10", "map_50", "froc_10"} <= {row["metric"] for row in rows if row["task"] == "whole_boxes"}
    for ours, stored in zip(seen, whole, strict=True):
        a, b = (np.array(each["truth"]["boxes"]) for each in (ours, stored))
        # Of 96 x 128 stored pixels, the model sees 32 x 48.
        np.testing.assert_allclose(a * [128 / 48, 3, 128 / 48, 3] if len(a) else a, b, atol=1e-6)
