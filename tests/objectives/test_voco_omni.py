"""VoComni: masks of labelled volumes, and a network's own on the others, against the formulas in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.config import component
from medvlm.core.decoder_config import MISSING, join_background
from medvlm.core.errors import ShapeError
from medvlm.objectives.ssl._base import Moment

ENCODER: dict[str, Any] = {
    "kind": "timm", "net": "resnet10t", "args": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "levels": [-4, -3, -2, -1],
    "preprocess": {"size": [32, 32], "channels": 1, "mean": [0.5], "std": [0.5]},
}  # fmt: skip
LOSS: dict[str, Any] = {
    "kind": "voco_omni", "width": 8, "changes": {"flip": True, "brightness": 0.1, "noise": 0.05},
    "decoder": {"kind": "fpn", "width": 8, "classes": ["organ", "tumor"], "answers": "organs"},
    "losses": [{"kind": "dice", "smooth": 1.0e-5}, "cross_entropy"],
}  # fmt: skip
TERMS = ["intra", "inter", "apart", "masks.dice", "pseudo.dice", "masks.cross_entropy", "pseudo.cross_entropy"]


def build(**changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    kind, method = component("encoders", ENCODER["kind"]), component("objectives.ssl", "voco_omni")
    encoder = kind.build(kind.Config.model_validate(ENCODER)).double().eval()
    return encoder, method.build(method.Config.model_validate({**LOSS, **changes}), encoder).double().eval()


def draw_views(objective: Any) -> dict[str, torch.Tensor]:
    """Of four volumes, the second and the third of which have masks."""
    rng = np.random.default_rng(0)
    drawn = []
    for number in range(4):
        pixels = torch.from_numpy(rng.normal(size=(1, *objective.canvas)))
        labels = torch.from_numpy(rng.integers(0, 3, objective.canvas)) if number in (1, 2) else None
        drawn.append(objective.draw(pixels, rng, labels))
    return {name: torch.stack([each[name] for each in drawn]) for name in drawn[0]}


def run(encoder: Any, objective: Any, views: dict[str, torch.Tensor], done: float) -> dict[str, torch.Tensor]:
    """The losses, as sums. The teacher has other weights."""
    torch.manual_seed(1)
    own = objective(encoder, views)
    teacher, other = copy.deepcopy(objective), copy.deepcopy(encoder)
    with torch.no_grad():
        for weight in (*teacher.parameters(), *other.parameters()):
            weight.add_(0.1 * torch.randn_like(weight))
        taught = teacher(other, views, {name: each.detach() for name, each in own.items()})
    found: dict[str, torch.Tensor] = objective.add_up(Moment(done, 0, lambda *tensors: tensors), views, own, taught)
    return {**found, "own": own["logits"], "drawn": taught["drawn"]}


def test_a_mask_is_cut_and_mirrored_as_its_crop_is() -> None:
    _, objective = build(changes={"flip": True, "noise": 0.05})
    rng = np.random.default_rng(3)
    labels = torch.from_numpy(rng.integers(0, 3, objective.canvas))
    found = objective.draw(100.0 * labels[None].double(), np.random.default_rng(5), labels)
    assert torch.equal((found["crops"][:, 0] / 100).round().long(), found["masks"]) and bool(found["has_mask"])
    plain = component("objectives.ssl", "voco").Voco.draw(objective, labels[None].double(), np.random.default_rng(5))
    again = objective.draw(labels[None].double(), np.random.default_rng(5))
    assert all(torch.equal(plain[name], again[name]) for name in plain), "masks change what is drawn"
    assert (again["masks"] == MISSING).all() and not again["has_mask"]


def test_a_mask_that_speaks_of_some_of_many_classes_keeps_its_label() -> None:
    """Which has a bit for each class that it does not speak of, more than a float has."""
    _, objective = build()
    label = join_background([0, 30, 59])
    found = objective.draw(
        torch.zeros(1, *objective.canvas), np.random.default_rng(0), torch.full(objective.canvas, label)
    )
    assert found["masks"].unique().tolist() == [label]


def test_masks_cost_dice_and_cross_entropy_as_in_monai() -> None:
    """MONAI's DiceCELoss as the code calls it, of the labelled crops; and of the others with what the teacher draws."""
    from monai.losses import DiceCELoss

    encoder, objective = build()
    views = draw_views(objective)
    found, weights = run(encoder, objective, views, done=0.6), objective.weigh(views)
    assert list(weights) == TERMS
    reference = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    logits = found["own"].unflatten(0, (4, 2))
    for name, rows, labels in (("masks", [1, 2], views["masks"]), ("pseudo", [0, 3], found["drawn"])):
        wanted = reference(logits[rows].flatten(0, 1), labels[rows].flatten(0, 1)[:, None])
        dice, cross = (found[f"{name}.{kind}"] / weights[f"{name}.{kind}"] for kind in ("dice", "cross_entropy"))
        assert (dice + cross).item() == pytest.approx(wanted.item(), rel=1e-5)
        slopes = [torch.autograd.grad(each, found["own"], retain_graph=True)[0] for each in (dice + cross, wanted)]
        torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-8)


def test_the_terms_of_voco_are_those_of_voco() -> None:
    encoder, objective = build()
    views = draw_views(objective)
    plain = component("objectives.ssl", "voco")
    torch.manual_seed(0)
    other = plain.build(plain.Config.model_validate({"kind": "voco", "width": 8}), encoder).double()
    other.project.load_state_dict(objective.project.state_dict())
    found = run(encoder, objective, views, done=0.6)
    torch.manual_seed(1)
    own = other(encoder, views)
    teacher = copy.deepcopy(objective)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        taught = plain.Voco.forward(teacher, encoder, views, own)
    expected = other.add_up(Moment(0.6, 0, lambda *tensors: tensors), views, own, taught)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_volumes_without_masks_teach_the_decoder_alone_and_only_later() -> None:
    encoder, objective = build()
    views = draw_views(objective)
    for done, is_due in ((0.4, False), (0.5, True)):
        found = run(encoder, objective, views, done)
        total = found["pseudo.dice"] + found["pseudo.cross_entropy"]
        of_encoder = torch.autograd.grad(total, list(encoder.parameters()), retain_graph=True, allow_unused=True)
        of_decoder = torch.autograd.grad(total, list(objective.decoder.parameters()), retain_graph=True)
        assert not any(each is not None and each.any() for each in of_encoder)
        assert all(bool(each.any()) == is_due for each in of_decoder) and math.isclose(float(total), 0) != is_due
        masks = found["masks.dice"] + found["masks.cross_entropy"]
        of_encoder = torch.autograd.grad(masks, list(encoder.parameters()), allow_unused=True)
        assert sum(bool(each is not None and each.any()) for each in of_encoder) > 10


def test_the_network_is_copied_until_half_and_then_stays_while_the_projector_follows() -> None:
    _, objective = build()
    for name, early, late in (
        ("objective.project.0.weight", 0.9, 0.9),
        ("objective.decoder.out.weight", 0.0, 1.0),
        ("encoders.volume.tower.conv1.weight", 0.0, 1.0),
    ):
        assert [objective.find_momentum_of(name, done) for done in (0.0, 0.49, 0.5, 0.99)] == [early] * 2 + [late] * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decoder": {"kind": "linear", "classes": ["a"]}}, "draws no exclusive classes"),
        ({"decoder": {**LOSS["decoder"], "exclusive": False}}, "draws no exclusive classes"),
        ({"losses": ["binary_cross_entropy"]}, "binary_cross_entropy needs"),
    ],
)
def test_a_decoder_or_a_loss_that_does_not_fit_is_refused(change: dict[str, Any], reason: str) -> None:
    method = component("objectives.ssl", "voco_omni")
    assert reason in method.Config.model_validate({**LOSS, **change}).explain_unfit()
    assert method.Config.model_validate(LOSS).explain_unfit() == ""


def test_a_decoder_with_losses_of_its_own_draws_without_them() -> None:
    decoder = {"kind": "guided_attention", "width": 8, "classes": ["organ", "tumor"], "answers": "organs"}
    with pytest.raises(ShapeError, match=r"guided_attention has losses of its own \(codes, restored\).*set them to 0"):
        build(decoder=decoder)
    encoder, objective = build(decoder={**decoder, "codes": 0, "restored": 0})
    objective.train()
    views = draw_views(objective)
    assert objective(encoder, views)["logits"].shape == (8, 3, 32, 32)
