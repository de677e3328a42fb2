from __future__ import annotations

import numpy as np
import pytest

from medvlm.core.errors import DataError
from medvlm.io.images import encode_npy, encode_png
from medvlm.io.masks import decode_mask, encode_mask, is_mask, masks_of


@pytest.mark.parametrize(
    ("mask", "suffix", "dtype"),
    [
        (np.array([[True, False], [False, True]]), "png", np.uint8),
        (np.array([[0, 255]], np.int64), "png", np.uint8),
        (np.array([[0, 300.0]]), "png", np.uint16),
        (np.ones((2, 3, 4), bool), "npy", np.uint8),
        (np.full((2, 3, 4), 65535), "npy", np.uint16),
    ],
)
def test_labels_are_restored_exactly(mask: np.ndarray, suffix: str, dtype: type) -> None:
    found, data = encode_mask(mask, "0.mask")
    back = decode_mask(data, f"0.mask.{found}")
    assert found == suffix and back.dtype == dtype and np.array_equal(back, mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[0.5]]), "some values are not whole numbers"),
        (np.array([[np.nan]]), "some values are not whole numbers"),
        (np.array([[-1, 3]]), "labels from -1 to 3"),
        (np.array([[0, 70000]]), "labels from 0 to 70000"),
    ],
)
def test_values_that_are_not_labels_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode_mask(mask, "0.mask")


@pytest.mark.parametrize("data", [encode_png(np.zeros((4, 4, 3), np.uint8)), encode_npy(np.zeros((4, 4), np.float32))])
def test_a_picture_is_not_a_mask(data: bytes) -> None:
    with pytest.raises(DataError, match=r"0\.mask\.x: .* is not a mask"):
        decode_mask(data, "0.mask.x")


def test_masks_are_recognised_by_their_names() -> None:
    members = ["0.png", "0.mask.png", "0.mask.second.npy", "1.npy", "1.mask.npy", "json", "01.mask.png"]
    assert [m for m in members if is_mask(m)] == ["0.mask.png", "0.mask.second.npy", "1.mask.npy", "01.mask.png"]
    assert masks_of("0.png", members) == ["0.mask.png", "0.mask.second.npy"]
    assert masks_of("1.npy", members) == ["1.mask.npy"]
