"""CutMix of masks: a box of pixels of another sample brings its labels along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from medvlm.core.decoder_config import MISSING
from medvlm.stages._blend import Mixture, cut_masks, find_box
from tests.labelled_run import FIT, recipe, write_run
from tests.stages.batches import first
from tests.tiny_run import staged

Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def stage(**changes: Any) -> Any:
        return staged(write_run(tmp_path, recipe(stages=[{**FIT, **changes}])), tmp_path / "runs", "fit")

    return stage


@pytest.mark.parametrize("size", [(10, 20), (6, 10, 20)], ids=str)
@pytest.mark.parametrize("planes", [(), (3,)], ids=["one map", "overlapping"])
def test_a_box_of_an_image_or_a_volume_is_the_others(size: tuple[int, ...], planes: tuple[int, ...]) -> None:
    mixture = Mixture(0.75, 1, torch.tensor([0.9, 0.5, 0.1]).numpy())
    own, other = torch.zeros(*planes, *size, dtype=torch.int64), torch.ones(*planes, *size, dtype=torch.int64)
    (found,) = cut_masks([own], [other], mixture, len(size))
    at = find_box(size, mixture)
    assert found[at].all() and found.sum() == found[at].numel() and not own.any()
    assert found.double().mean() == pytest.approx(0.25, abs=0.08)
    (unknown,) = cut_masks([own], [], mixture, len(size))
    assert torch.equal(unknown == MISSING, found == 1)


def test_masks_are_cut_like_the_pixels(make: Make) -> None:
    """Where a pixel is the other sample's, so is its label; a sample without a mask brings unknown labels. Scores have
    the labels of both samples as before."""
    losses = {"square": ["cross_entropy", "dice"], "side": ["cross_entropy"]}
    plain, mixed = (first(make(batch=8, losses=losses, **more), 16) for more in ({}, {"blend": {"cutmix": 1.0}}))
    partners = []
    for own, item in zip(plain, mixed, strict=True):
        assert item.cut == {"square"} and "square" not in item.others and "side" in item.others
        changed = (item.pixels != own.pixels).any(0)
        (other,) = (each for each in plain if torch.equal(torch.where(changed, each.pixels, own.pixels), item.pixels))
        assert other.key != own.key
        assert ("square" in item.labels) == ("square" in own.labels)
        if "square" not in own.labels:
            continue
        # A few pixels of noise within the box are the same in both, but in no whole row or column.
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        box = torch.zeros_like(changed)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        (found,), (before,) = item.labels["square"], own.labels["square"]
        theirs = other.labels.get("square", [torch.full_like(before, MISSING)])[0]
        assert torch.equal(found, torch.where(box, theirs, before)) and 0 < box.sum() < box.numel()
        partners.append("square" in other.labels)
    assert {True, False} == set(partners), partners
    stage = make(batch=8, losses=losses, blend={"cutmix": 1.0})
    stage.model.eval()
    (micro,) = stage.make_micros(mixed, 1)
    logits = stage.model(micro)["decoders.square"]
    labels = torch.cat([item.labels["square"][0][None] for item in mixed if "square" in item.labels])
    assert logits.shape[0] == len(labels)
    measured, weights = stage.compute_loss(stage.model, micro, 0), stage.weigh(micro)
    expected = cross_entropy(logits, labels, reduction="sum", ignore_index=MISSING)
    torch.testing.assert_close(measured["square.cross_entropy"].sum, expected)
    assert weights["square.cross_entropy"] == (labels != MISSING).sum()
