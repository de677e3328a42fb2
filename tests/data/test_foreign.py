"""Changes of intensities by classes of MONAI and torchvision: theirs, drawn by the position, and never of places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Medium, Sample
from medvlm.data import foreign
from medvlm.data.augment import Augment, augment

SHIFT = {"path": "monai.transforms.RandShiftIntensity", "args": {"offsets": 0.3, "prob": 1.0}}
NOISE = {"path": "torchvision.transforms.v2.GaussianNoise", "args": {"sigma": 0.2}}
JITTER = {"path": "torchvision.transforms.v2.ColorJitter", "args": {"brightness": 0.5, "contrast": 0.5}}


@pytest.fixture(autouse=True)
def permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvlm.core.config._PERMITTED", {"monai", "torchvision"})


def change(array: np.ndarray, seed: int, *changes: dict[str, Any]) -> np.ndarray:
    sample = Sample("a", "films", "train", (Medium("film", "0.png", array.shape[:2]),))
    config = Augment.model_validate({"changes": changes})
    return augment(array, sample, config, np.random.default_rng(seed))[0]


@pytest.mark.parametrize("own", [SHIFT, NOISE, JITTER], ids=lambda own: own["path"].rpartition(".")[2])
def test_a_change_is_drawn_by_its_position_and_by_nothing_else(own: dict[str, Any]) -> None:
    pytest.importorskip(own["path"].partition(".")[0])
    film = np.random.default_rng(0).integers(60, 190, (16, 12, 3), np.uint8)
    torch.manual_seed(0)
    expected, before = torch.rand(1), np.random.get_state(legacy=True)
    torch.manual_seed(0)
    first = change(film, 1, own)
    assert torch.equal(torch.rand(1), expected) and str(np.random.get_state(legacy=True)) == str(before)
    torch.manual_seed(5)
    assert first.dtype == np.uint8 and np.array_equal(first, change(film, 1, own))
    assert not np.array_equal(first, change(film, 2, own)) and not np.array_equal(first, film)


def test_monais_change_is_that_of_monai() -> None:
    """The same offset on all pixels, within what the class was made with, and rounded once."""
    pytest.importorskip("monai")
    film = np.random.default_rng(0).integers(100, 150, (8, 8), np.uint8)
    offsets = {int(offset) for seed in range(8) for offset in np.unique(change(film, seed, SHIFT).astype(int) - film)}
    assert len(offsets) > 4 and max(map(abs, offsets)) <= 77  # 0.3 of 255


def test_what_moves_pixels_is_refused() -> None:
    pytest.importorskip("torchvision")
    film = np.zeros((8, 8), np.uint8)
    turn: dict[str, Any] = {"path": "torchvision.transforms.v2.RandomRotation", "args": {"degrees": 20}}
    others = ("v2.RandAugment", "AugMix", "RandomHorizontalFlip")
    for moving in (turn, *({"path": f"torchvision.transforms.{other}"} for other in others)):
        name = moving["path"].rpartition(".")[2]
        with pytest.raises(RecipeError, match=rf"changes.0: {name} moves pixels.*use flip"):
            change(film, 0, moving)
    with pytest.raises(RecipeError, match="cannot be made of its args"):
        change(film, 0, {**NOISE, "args": {"sigmas": 1}})
    with pytest.raises(RecipeError, match=r"add plugins: \[numpy\]"):
        change(film, 0, {"path": "numpy.flip"})
    with pytest.raises(DataError, match=r"here made \[1, 4, 8\] of \[1, 8, 8\]"):
        foreign.apply(lambda pixels: pixels[:, :4], film[None].astype(np.float32), np.random.default_rng(0), "here")


class Add:
    """Adds a number that it draws."""

    def set_random_state(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.drawn = self.rng.uniform()
        return pixels + self.drawn


class Two:
    def __init__(self) -> None:
        self.transforms = [Add(), Add()]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.transforms[1](self.transforms[0](pixels))


def test_parts_of_a_transform_draw_different_numbers() -> None:
    two, pixels = Two(), np.zeros((1, 4, 4), np.float32)
    first, again = (foreign.apply(two, pixels, np.random.default_rng(0), "here") for _ in range(2))
    assert np.array_equal(first, again) and abs(two.transforms[0].drawn - two.transforms[1].drawn) > 1e-6


def test_a_transform_that_fails_is_named_with_what_it_got() -> None:
    pytest.importorskip("torchvision")
    scan = np.zeros((6, 8, 7), np.uint8)
    sample = Sample("a", "scans", "train", (Medium("ct", "0.npy", scan.shape),))
    config = Augment.model_validate({"changes": [JITTER]})
    expected = r"data.scans.augment.changes.0: ColorJitter cannot change a tensor \[1, 6, 8, 7\].*use another class"
    with pytest.raises(RecipeError, match=expected):
        augment(scan, sample, config, np.random.default_rng(0))
