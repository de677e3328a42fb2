"""F1 of counts against torchmetrics, on draws, and where nothing defines it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score, multilabel_f1_score

from medvlm.core.measure import OfItems
from medvlm.metrics.bootstrap import resample, value
from medvlm.metrics.f1 import f1


def draw_labels(seed: int, items: int = 40, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    expected = rng.random((items, classes)) < 0.3
    return np.where(rng.random((items, classes)) < 0.8, expected, ~expected), expected


def count(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """[N, 3] of labels [N, K]."""
    return np.stack([found & expected, found & ~expected, ~found & expected], axis=-1).sum(axis=1).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_equals_torchmetrics(seed: int) -> None:
    found, expected = draw_labels(seed)
    tensors = torch.from_numpy(found).int(), torch.from_numpy(expected).int()
    micro = multilabel_f1_score(*tensors, num_labels=5, average="micro").item()
    macro = multilabel_f1_score(*tensors, num_labels=5, average="macro").item()
    by_class = [value(count(found[:, [k]], expected[:, [k]]), OfItems(f1)) for k in range(5)]
    assert value(count(found, expected), OfItems(f1)) == pytest.approx(micro, abs=1e-6)
    assert np.mean(by_class) == pytest.approx(macro, abs=1e-6)


def test_a_draw_equals_its_repeated_items() -> None:
    found, expected = draw_labels(7)
    times_RN = np.random.default_rng(0).integers(0, 4, (6, len(found)))
    for times_N, drawn in zip(times_RN, f1(count(found, expected), times_RN), strict=True):
        repeated = torch.from_numpy(found.repeat(times_N, 0)).int(), torch.from_numpy(expected.repeat(times_N, 0)).int()
        assert drawn == pytest.approx(binary_f1_score(*repeated).item(), abs=1e-6)


def test_nothing_to_find_and_nothing_found_defines_no_f1() -> None:
    items_NK = np.array([[0.0, 0, 0], [1, 0, 0]])
    assert np.isnan(value(items_NK[:1], OfItems(f1))) and value(items_NK, OfItems(f1)) == 1
    drawn_R = resample(items_NK, [0, 1], OfItems(f1), resamples=50)
    assert np.isnan(drawn_R).any() and np.nanmin(drawn_R) == 1
