"""Losses of masks against MONAI's classes, forward and gradient, with pixels and classes that nobody labelled."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.decoder_config import MISSING
from medvlm.objectives.heads.boundary import measure
from tests.objectives.test_heads import SIZES, K, N, check_same, drawn, loss_of

MASKS = SIZES[1:]
KINDS = ("dice", "generalized_dice", "tversky", "boundary", "cl_dice")


def monais(kind: str, exclusive: bool, background: bool, **settings: Any) -> Any:
    """MONAI's loss of logits and labels, each with the settings of ours."""
    from monai import losses

    made: Any = {
        "dice": losses.DiceLoss,
        "generalized_dice": losses.GeneralizedDiceLoss,
        "tversky": losses.TverskyLoss,
        "boundary": losses.BoundaryLoss,
        "cl_dice": losses.SoftclDiceLoss,
    }[kind](include_background=background, softmax=exclusive, sigmoid=not exclusive, to_onehot_y=exclusive, **settings)
    return lambda logits, labels: made(logits, labels[:, None] if exclusive else labels.double())


SETTINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dice", {"squared": True}, {"squared_pred": True, "smooth_nr": 1.0, "smooth_dr": 1.0}),
    ("generalized_dice", {}, {}),
    ("generalized_dice", {"classes_by": "simple", "smooth": 1.0}, {"w_type": "simple", "smooth_nr": 1, "smooth_dr": 1}),
    ("tversky", {}, {"alpha": 0.3, "beta": 0.7, "smooth_nr": 1.0, "smooth_dr": 1.0}),
    ("tversky", {"alpha": 0.5, "beta": 0.5, "smooth": 1e-5}, {}),
    ("boundary", {}, {}),
    ("cl_dice", {}, {}),
    ("cl_dice", {"iterations": 1, "smooth": 0.5}, {"iter_": 1, "smooth_nr": 0.5, "smooth_dr": 0.5}),
]


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("size", MASKS, ids=str)
@pytest.mark.parametrize(("kind", "ours", "theirs"), SETTINGS)
def test_a_loss_is_that_of_monai(
    kind: str, ours: dict[str, Any], theirs: dict[str, Any], size: tuple[int, ...], exclusive: bool
) -> None:
    logits, labels = drawn(size, exclusive)
    for background in (True, False) if exclusive else (True,):
        settings = {"background": background, **ours}
        reference = monais(kind, exclusive, background, **theirs)
        check_same(
            logits,
            partial(loss_of, kind, labels=labels, exclusive=exclusive, **settings),
            partial(reference, labels=labels),
        )


@pytest.mark.parametrize("exclusive", [True, False])
def test_focal_tversky_is_the_root_of_the_loss_of_each_class(exclusive: bool) -> None:
    from monai.losses import TverskyLoss

    logits, labels = drawn((6, 7), exclusive)
    each = TverskyLoss(alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0, reduction="none")

    def reference(x: torch.Tensor) -> torch.Tensor:
        soft = x.softmax(1)[:, 1:] if exclusive else x.sigmoid()
        truth = torch.stack([labels == n for n in range(1, K)], 1) if exclusive else labels
        found: torch.Tensor = (each(soft, truth.double()) ** 0.75).mean()
        return found

    check_same(logits, lambda x: loss_of("tversky", x, labels, exclusive, gamma=4 / 3), reference)


def test_sums_of_losses_are_the_combined_losses_of_monai() -> None:
    from monai.losses import DiceCELoss, DiceFocalLoss, SoftDiceclDiceLoss

    logits, labels = drawn((6, 7), True)
    both = DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=False, lambda_dice=0.5, smooth_nr=1, smooth_dr=1
    )
    check_same(
        logits,
        lambda x: 0.5 * loss_of("dice", x, labels, True) + loss_of("cross_entropy", x, labels, True),
        lambda x: both(x, labels[:, None]),
    )
    logits, labels = drawn((6, 7), False)
    focal = DiceFocalLoss(sigmoid=True, lambda_focal=0.5, smooth_nr=1, smooth_dr=1)
    check_same(
        logits,
        lambda x: loss_of("dice", x, labels, False) + 0.5 * loss_of("focal", x, labels, False),
        lambda x: focal(x, labels.double()),
    )
    lines = SoftDiceclDiceLoss(sigmoid=True, alpha=0.3, smooth_nr=1.0, smooth_dr=1.0)
    check_same(
        logits,
        lambda x: 0.7 * loss_of("dice", x, labels, False) + 0.3 * loss_of("cl_dice", x, labels, False),
        lambda x: lines(x, labels.double()),
    )


# --- what nobody labelled --------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_get_no_gradient_and_change_nothing(kind: str, exclusive: bool) -> None:
    logits, labels = drawn((6, 7), exclusive)
    labels[..., 4:] = MISSING
    changed = logits.detach().clone()
    changed[..., 4:] += 3
    changed.requires_grad_()
    value, other = loss_of(kind, logits, labels, exclusive), loss_of(kind, changed, labels, exclusive)
    assert value.item() == pytest.approx(other.item(), abs=1e-6)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[..., :4].any() and not gradient[..., 4:].any()


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", ["generalized_dice", "tversky"])
def test_the_loss_with_ignored_pixels_is_that_of_the_other_pixels(kind: str, exclusive: bool) -> None:
    logits, labels = drawn((6, 7), exclusive)
    ignored = labels.clone()
    ignored[..., 4:] = MISSING
    check_same(
        logits,
        lambda x: loss_of(kind, x, ignored, exclusive),
        lambda x: loss_of(kind, x[..., :4], labels[..., :4], exclusive),
    )


@pytest.mark.parametrize("kind", [*KINDS, "binary_cross_entropy", "focal"])
def test_a_class_that_a_data_set_does_not_label_teaches_nothing_there(kind: str) -> None:
    """Two data sets that label different organs: the first sample is of one, the others of both."""
    logits, labels = drawn((6, 7), False)
    labels[0, 1:] = MISSING
    (gradient,) = torch.autograd.grad(loss_of(kind, logits, labels, False), logits)
    assert gradient[0, 0].any() and not gradient[0, 1:].any() and gradient[1:].any()
    if kind in ("dice", "tversky", "boundary"):  # the mean over samples and classes that are labelled
        alone = [
            loss_of(kind, logits[n : n + 1, k : k + 1], labels[n : n + 1, k : k + 1], False) for n, k in known(labels)
        ]
        torch.testing.assert_close(loss_of(kind, logits, labels, False), torch.stack(alone).mean())


def known(labels: torch.Tensor) -> list[tuple[int, int]]:
    return [(n, k) for n in range(N) for k in range(K) if (labels[n, k] != MISSING).any()]


# --- by hand ------------------------------------------------------------------------------------------------


def test_losses_of_four_pixels_by_hand() -> None:
    """Probabilities .8 .6 .4 .2 for the truth 1 1 0 0: 1.4 shared, 0.6 in vain, 0.6 missed."""
    p = torch.tensor([0.8, 0.6, 0.4, 0.2]).view(1, 1, 2, 2)
    logits, labels = p.logit(), torch.tensor([1, 1, 0, 0]).view(1, 1, 2, 2)

    def value(kind: str, **settings: Any) -> float:
        return loss_of(kind, logits, labels, False, **settings).item()

    assert value("dice", smooth=1e-9) == pytest.approx(1 - 2.8 / 4, abs=1e-6)
    assert value("dice", smooth=1e-9, squared=True) == pytest.approx(1 - 2.8 / (1.2 + 2), abs=1e-6)
    assert value("tversky", smooth=1e-9) == pytest.approx(1 - 1.4 / (1.4 + 0.3 * 0.6 + 0.7 * 0.6), abs=1e-6)
    assert value("generalized_dice", smooth=1e-9) == pytest.approx(0.3, abs=1e-6)
    # The upper row is marked: distance 0 there, 1 below.
    assert value("boundary") == pytest.approx((0.4 + 0.2) / 4, abs=1e-6)


def test_a_broken_vessel_costs_more_than_a_thin_one() -> None:
    """A line of 3 x 9 pixels. 6 pixels are missing, at its edges or across it: Dice is the same, clDice is not."""
    truth = torch.zeros(1, 1, 9, 11, dtype=torch.long)
    truth[..., 3:6, 1:10] = 1
    thin, broken = truth.clone(), truth.clone()
    thin[..., 3, 2:8] = 0
    broken[..., 3:6, 4:6] = 0
    thin, broken = ((mask.float() - 0.5) * 40 for mask in (thin, broken))
    assert loss_of("dice", thin, truth, False).item() == pytest.approx(loss_of("dice", broken, truth, False).item())
    lost = [loss_of("cl_dice", logits, truth, False).item() for logits in (thin, broken)]
    assert lost[0] < 0.03 < 0.05 < lost[1]


def test_distances_are_to_the_nearest_pixel_of_the_other_kind() -> None:
    mask = np.zeros((7, 9), bool)
    mask[2:5, 3:8] = True
    found = measure(mask)
    marked, rest = np.argwhere(mask), np.argwhere(~mask)
    for at in np.ndindex(mask.shape):
        others = rest if mask[at] else marked
        nearest = min(math.dist(at, each) for each in others)
        assert found[at] == pytest.approx(1 - nearest if mask[at] else nearest)
    assert not measure(np.zeros((2, 2), bool)).any() and not measure(np.ones((2, 2), bool)).any()


def test_focal_tversky_has_a_gradient_where_nothing_is_wrong() -> None:
    logits = torch.full((1, 1, 4, 4), 60.0, requires_grad=True)
    loss_of("tversky", logits, torch.ones(1, 1, 4, 4, dtype=torch.long), False, gamma=4 / 3).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_a_sample_without_marked_pixels_loses_nothing_by_the_generalized_dice() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.long)
    assert loss_of("generalized_dice", logits, labels, False).item() == pytest.approx(0, abs=1e-6)


def test_the_adaptive_tversky_loss_is_its_formula() -> None:
    """In float64, with a gradient through the factor too; with both bounds at 0.5, it is `tversky`."""
    logits, labels = drawn(MASKS[0], False)

    def reference(x: torch.Tensor) -> torch.Tensor:
        soft, truth = x.double().sigmoid().flatten(2), labels.double().flatten(2)
        shared, vain, missed = (soft * truth).sum(2), (soft * (1 - truth)).sum(2), ((1 - soft) * truth).sum(2)
        share = (vain / (vain + missed)).clamp(0.2, 0.8)
        return (1 - (shared + 1) / (shared + 1 + share * vain + (1 - share) * missed)).mean()

    check_same(logits, lambda x: loss_of("adaptive_tversky", x, labels, False), reference)
    even = {"alpha": 0.5, "beta": 0.5}
    check_same(
        logits,
        lambda x: loss_of("adaptive_tversky", x, labels, False, bounds=(0.5, 0.5)),
        lambda x: loss_of("tversky", x, labels, False, **even),
    )
