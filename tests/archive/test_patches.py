"""Patches on a class of a mask and beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medvlm.archive.crops import find_patches
from medvlm.archive.readers.folder import Config, count, list_content, read
from medvlm.core.contracts import Deferred
from medvlm.core.errors import DataError
from medvlm.io.images import encode_png

CARD: dict[str, Any] = {
    "kind": "folder", "images": r"images/(?P<who>\d+)\.png", "medium": "fundus", "patient": "{who}",
    "classes": {"vessel": {"one": "vessel", "many": "vessels"}},
    "masks": [{"of": "vessel", "files": "masks/{who}.png", "holds": "area"}],
    "patches": {"of": "vessel", "side_px": 8, "each": 3},
}  # fmt: skip


def write(root: Path, extent_HW: np.ndarray) -> Path:
    """An image whose colours tell where each pixel is."""
    height, width = extent_HW.shape
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows, columns, 200 * extent_HW], -1).astype(np.uint8)
    for folder, array in (("images", pixels), ("masks", (255 * extent_HW).astype(np.uint8))):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "7.png").write_bytes(encode_png(array))
    return root


def line() -> np.ndarray:
    extent_HW = np.zeros((40, 60), bool)
    extent_HW[18:21] = True
    return extent_HW


def test_half_of_the_patches_have_the_class_in_the_middle_and_half_have_none_beside_it(tmp_path: Path) -> None:
    config = Config.model_validate(CARD)
    items = list(read(config, write(tmp_path, line())))
    assert (
        count(config, tmp_path) == len(items) == 6
        and len({item.key for item in items if isinstance(item, Deferred)}) == 6
    )
    for number, item in enumerate(items):
        assert isinstance(item, Deferred)
        made = item.make()
        (question,), (medium,) = made.sample.questions, made.sample.media
        answer = "background" if number % 2 else "vessel"
        labels = dict(zip(question.truth.classes, question.truth.labels, strict=True))  # type: ignore[attr-defined]
        assert labels == {"vessel": answer == "vessel", "background": answer == "background"}
        assert made.sample.groups == {"class": answer} and made.sample.patient == "7" and medium.kind == "fundus"
        pixels = made.files["0"]().pixels
        assert pixels.shape == (8, 8, 3)
        marked = pixels[..., 2] > 0
        assert marked[4, 4] if answer == "vessel" else not marked.any()
        if answer == "background":
            assert 18 - 16 <= pixels[0, 0, 0] <= 20 + 9, "farther than one patch from the class"


def test_patches_are_the_same_every_time_and_differ_from_image_to_image() -> None:
    shown = np.ones((40, 60), bool)
    one, again, other = (find_patches(line(), shown, 8, 3, key) for key in ("a", "a", "b"))
    assert one == again != other and all(len(set(places)) == 3 for places in one)


def test_flat_parts_of_an_image_are_no_background() -> None:
    shown = np.ones((40, 60), bool)
    shown[:, :30] = False
    for places in find_patches(line(), shown, 8, 40, "a"):
        assert len(places) == 40 and min(x for _, x in places) >= 30 - 6
    assert find_patches(line(), ~shown & shown, 8, 3, "a") == ([], [])


def test_an_image_without_room_for_a_patch_says_so(tmp_path: Path) -> None:
    items = list(read(Config.model_validate(CARD), write(tmp_path, np.ones((12, 12), bool))))
    assert items[0].make().sample.groups == {"class": "vessel"}  # type: ignore[union-attr]
    with pytest.raises(DataError, match="only 0 patches of 8 pixels with background"):
        items[1].make()  # type: ignore[union-attr]


def test_what_the_card_promises_is_what_the_patches_have() -> None:
    content = list_content(Config.model_validate(CARD))
    assert content.tasks == frozenset({"labels"}) and content.answered is not None
    assert content.answered["patch"].classes == ("vessel", "background")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"area": {"wordings": ["How much?"]}}, "leave out count"),
        ({"patches": {"of": "nerve", "side_px": 8, "each": 1}}, "'nerve', which has no entry in `masks`"),
    ],
)
def test_a_card_with_patches_asks_for_nothing_else(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({**CARD, **changes})
