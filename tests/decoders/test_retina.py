"""Anchors, their offsets, their objects and their losses, against torchvision, MONAI and plain formulas; and the terms
of Retina U-Net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from medvlm.core.config import component
from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import MISSING
from medvlm.decoders import retina
from medvlm.decoders._found import list_found
from medvlm.objectives.heads import anchor_boxes
from medvlm.recipe.load import load

CLASSES = ("RBC", "WBC")
BOXES = ([3.0, 2, 13, 12], [18, 20, 30, 27], [19, 21, 29, 29])
OBJECTS = torch.tensor([[0.0, *BOXES[0]], [1, *BOXES[1]], [1, *BOXES[2]], [MISSING] * 5])


def config_of(**settings: Any) -> Any:
    return retina.Config(kind="retina", classes=CLASSES, width=8, **settings)


def loss_of(**settings: Any) -> Any:
    return anchor_boxes.Config(kind="anchor_boxes", **settings)


def make_rows(seed: int = 0, size: float = 2.0) -> torch.Tensor:
    """Random logits and offsets of the anchors of a grid of 8 x 8 on 32 x 32 pixels, float64."""
    anchors = retina.make_anchors(config_of(size=size), (8, 8), (32, 32)).double()
    own = torch.randn(len(anchors), 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([own, anchors], 1)


def test_anchors_are_centred_on_their_places_with_the_areas_and_ratios_asked_for() -> None:
    anchors = retina.make_anchors(config_of(scales=(1.0, 2.0), ratios=(0.5, 2.0)), (2, 4), (16, 32))
    assert anchors.shape == (2 * 4 * 4, 4)
    sides, centres = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    torch.testing.assert_close(sides.prod(1)[:4].sqrt(), torch.tensor([32.0, 32, 64, 64]))
    torch.testing.assert_close((sides[:, 0] / sides[:, 1])[:4], torch.tensor([0.5, 2, 0.5, 2]))
    torch.testing.assert_close(centres[::4], torch.tensor([[y, x] for y in (4.0, 12) for x in (4.0, 12, 20, 28)]))
    deep = retina.make_anchors(config_of(ratios=(0.5,), scales=(1.0,)), (2, 4, 4), (4, 32, 32))
    assert (deep[0, 3:] - deep[0, :3]).tolist() == pytest.approx([8, 32 * 0.5**0.5, 32 * 2**0.5])


@pytest.mark.parametrize("axes", [2, 3])
def test_offsets_are_those_of_the_libraries_and_lead_back(axes: int) -> None:
    torch.manual_seed(0)
    low, high = 20 * torch.rand(2, 9, axes), 1 + 20 * torch.rand(2, 9, axes)
    boxes, anchors = torch.cat([low, low + high], 2)
    ours = anchor_boxes.encode(boxes, anchors)
    if axes == 2:
        from torchvision.models.detection._utils import BoxCoder

        coder: Any = BoxCoder((10.0, 10.0, 5.0, 5.0))
    else:
        from monai.apps.detection.utils.box_coder import BoxCoder as DeepCoder

        coder = DeepCoder((10.0,) * 3 + (5.0,) * 3)
    torch.testing.assert_close(ours, coder.encode_single(boxes, anchors), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(retina.to_boxes(ours, anchors), boxes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(retina.to_boxes(3 * ours, anchors), coder.decode_single(3 * ours, anchors))


def test_anchors_have_the_objects_of_torchvisions_matcher() -> None:
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    anchors, boxes = make_rows()[:, 6:].float(), torch.tensor(BOXES)
    iou = anchor_boxes.find_iou(anchors, boxes)
    torch.testing.assert_close(iou, box_iou(anchors, boxes))
    found = anchor_boxes.match(anchors, boxes, 0.5, 0.4)
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)(iou.T)
    assert torch.equal(found.clamp(max=0), theirs.clamp(max=0)) and {-2, -1, 0, 1, 2} == set(found.tolist())
    # torchvision leaves the best anchor of an object to another one that it overlaps more; here it is its own.
    is_best = (iou == iou.max(0).values).any(1)
    assert torch.equal(found[~is_best], theirs[~is_best])
    assert (anchor_boxes.match(anchors, boxes[:0], 0.5, 0.4) == -1).all()


@pytest.mark.parametrize("classify", ["all", "mined"])
def test_the_loss_and_its_gradient_are_those_of_the_formula(classify: str) -> None:
    from torchvision.ops import sigmoid_focal_loss

    config, rows = loss_of(classify=classify, boxes=0.5), make_rows()
    ours, theirs = rows.float().requires_grad_(), rows.clone().requires_grad_()
    value = anchor_boxes.add_up(config, ours[None], OBJECTS[None], config_of())
    of = anchor_boxes.match(rows[:, 6:], OBJECTS[:3, 1:].double(), 0.5, 0.4)
    is_one, wanted = of >= 0, torch.zeros(len(rows), 2, dtype=torch.float64)
    for anchor in is_one.nonzero()[:, 0].tolist():
        wanted[anchor, int(OBJECTS[of[anchor], 0])] = 1
    count = int(is_one.sum())
    if classify == "all":
        told = sigmoid_focal_loss(theirs[:, :2][of > -2], wanted[of > -2], 0.25, 2.0, reduction="sum") / count
    else:
        cross = binary_cross_entropy_with_logits(theirs[:, :2], wanted, reduction="none").sum(1)
        hardest = sorted(cross[of == -1].tolist(), reverse=True)
        chosen = hardest[: 20 * count][::20][:count] if len(hardest) >= 20 * count else hardest[:count]
        negative = torch.stack([cross[of == -1][cross[of == -1].detach() == each][0] for each in chosen])
        told = (cross[is_one].mean() + negative.mean()) / 2
    true = anchor_boxes.encode(OBJECTS[of[is_one], 1:].double(), rows[is_one, 6:])
    boxed = smooth_l1_loss(theirs[is_one, 2:6], true, beta=1 / 9)
    expected = told + 0.5 * boxed
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (mine,), (other,) = torch.autograd.grad(value, ours), torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(mine[:, :6].double(), other[:, :6], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_an_anchor_on_an_object_gives_its_box_once(axes: int) -> None:
    """Two anchors tell of one object, and the surer one is kept; the other object is of another class."""
    config = config_of(least=0.3)
    anchors = torch.tensor([[0.0] * axes + [8.0] * axes, [1.0] * axes + [9.0] * axes, [1.0] * axes + [9.0] * axes])
    told = torch.tensor([[2.0, -9], [3.0, -9], [-9, 1.0]])
    rows = torch.cat([told, torch.zeros(3, 2 * axes), anchors], 1)
    (found,) = retina.to_answers(config, rows[None])
    expected = torch.tensor([[0, 3.0], [1, 1.0]])
    torch.testing.assert_close(found[:2, :2], torch.stack([expected[:, 0], expected[:, 1].sigmoid()], 1))
    assert found[:2, 2:].tolist() == anchors[1:].tolist() and (found[2:] == MISSING).all()


def test_a_box_beyond_the_edge_does_not_suppress_one_of_another_class_in_the_opposite_corner() -> None:
    boxes = torch.tensor([[80.0, 80, 100, 100], [-20, -20, 5, 5]])
    found = list_found(boxes, torch.tensor([0, 1]), torch.tensor([0.9, 0.8]), 0.5)
    assert found[:2, 0].tolist() == [0, 1] and found[1, 2:].tolist() == boxes[1].tolist()


def test_anchors_are_exact_where_the_network_computes_in_bfloat16() -> None:
    config = config_of(scales=(1.0,))
    torch.manual_seed(0)
    decoder = retina.build(config, 6, (8, 8), (1, 1000, 1000), (Level(6, (8, 8)), Level(8, (4, 4))))
    with torch.autocast("cpu", torch.bfloat16):
        rows = decoder(see(1))
    anchors = [retina.make_anchors(config, (side, side), (1000, 1000)) for side in (8, 4)]
    assert torch.equal(rows[0, :, 6:], torch.cat(anchors))


def build(config: Any, axes: int = 2) -> Any:
    torch.manual_seed(0)
    levels = (Level(6, (8,) * axes), Level(8, (4,) * axes))
    return retina.build(config, 6, levels[0].grid, (1, *(32,) * axes), levels)


def see(count: int = 2, axes: int = 2) -> Features:
    torch.manual_seed(1)
    levels = tuple(torch.randn(count, c, *(side,) * axes, requires_grad=True) for c, side in ((6, 8), (8, 4)))
    return Features(levels[0].flatten(2).transpose(1, 2), levels[0].flatten(2).mean(2), (8,) * axes, levels)


def test_heads_are_those_of_monai_and_lie_beside_their_anchors() -> None:
    """In 3D: one number of one place of the output is that of the head's map there."""
    config = config_of(scales=(1.0,))
    decoder, seen = build(config, 3), see(axes=3)
    out = decoder(seen)
    assert out.shape == (2, (8**3 + 4**3) * 3, 2 + 12)
    maps = decoder.pyramid({"0": seen.levels[0], "1": seen.levels[1]})
    (told, _), (placed, _) = decoder.tell(list(maps.values())), decoder.place(list(maps.values()))
    place = (1 * 64 + 2 * 8 + 3) * 3 + 2  # of the third anchor at (1, 2, 3)
    torch.testing.assert_close(out[1, place, :2], told[1, 4:6, 1, 2, 3])
    torch.testing.assert_close(out[1, place, 2:8], placed[1, 12:18, 1, 2, 3])
    centre = (out[1, place, 8:11] + out[1, place, 11:]) / 2
    torch.testing.assert_close(centre, torch.tensor([6.0, 10, 14]))


@pytest.mark.slow
@pytest.mark.parametrize("axes", [2, 3])
def test_boxes_can_be_learnt(axes: int) -> None:
    """A level whose cell is marked where the object lies, in channels of its class."""
    config = config_of(scales=(1.0,), ratios=(1.0,), size=2.0).model_copy(update={"width": 16})
    decoder, loss = build(config, axes), loss_of()
    grid = torch.zeros(6, 6, *(8,) * axes)
    objects = torch.full((6, 1, 1 + 2 * axes), float(MISSING))
    for number in range(6):
        at = [1 + 5 * number % 6, 1 + 3 * number % 5, 1 + number][:axes]
        own = grid[number, 3 * (number % 2) : 3 + 3 * (number % 2)].movedim(0, -1)  # a view
        own[tuple(at)] = 1
        objects[number, 0] = torch.tensor([number % 2, *(4.0 * n - 3 for n in at), *(4.0 * n + 6 for n in at)])
    levels = (grid, torch.zeros(6, 8, *(4,) * axes))
    seen = Features(grid.flatten(2).transpose(1, 2), grid.flatten(2).mean(2), (8,) * axes, levels)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        (anchor_boxes.add_up(loss, decoder(seen), objects, config) / 6).backward()
        optimizer.step()
    found = retina.to_answers(config, decoder(seen).detach())[:, 0]
    iou = torch.stack([anchor_boxes.find_iou(a[None, 2:], b[:, 1:])[0, 0] for a, b in zip(found, objects, strict=True)])
    assert (iou > 0.5).all() and torch.equal(found[:, 0], objects[:, 0, 0]), (iou, found[:, :2])


@pytest.mark.parametrize("off", ["outline", "mined", "size"])
def test_without_a_term_of_retina_u_net_the_encoder_learns_something_else(off: str) -> None:
    recipe = load("systems/retina_unet.yaml").recipe
    losses = {name: list(own) for name, own in recipe.stages[0].losses.items()}
    decoders = dict(recipe.model.decoders)
    whole, slope = learn(decoders, losses)
    assert (whole, True) == (learn(decoders, losses)[0], True)
    if off == "outline":
        losses.pop("outline")
    elif off == "mined":
        losses["nuclei"] = [losses["nuclei"][0].model_copy(update={"classify": "all"})]
    else:
        decoders["nuclei"] = decoders["nuclei"].model_copy(update={"size": 4.0})
    less, other = learn(decoders, losses)
    assert whole != pytest.approx(less, rel=1e-5) and (slope - other).norm() > 1e-3 * slope.norm() > 0


def learn(decoders: Any, losses: Any) -> tuple[float, torch.Tensor]:
    seen = see()
    total = torch.zeros(())
    for name, own in losses.items():
        config = decoders[name].model_copy(update={"width": 8})
        module = component("decoders", config.kind)
        torch.manual_seed(0)
        levels = tuple(Level(each.shape[1], tuple(each.shape[2:])) for each in seen.levels)
        decoder: nn.Module = module.build(config, 6, (8, 8), (1, 32, 32), levels)
        if module.OUTPUT == "maps":
            labels = torch.zeros(2, 32, 32, dtype=torch.long)
            labels[:, 3:13, 2:12] = 1
        else:
            labels = OBJECTS.clone()
            labels[:, 0].clamp_(max=0)
            labels = labels.expand(2, -1, -1)
        logits = decoder(seen)
        for loss in own:
            by = component("objectives.heads", loss.kind)
            total = total + loss.weight * by.add_up(loss, logits, labels, config) / by.weigh(loss, labels, config)
    (slope,) = torch.autograd.grad(total, seen.levels[0])
    return total.item(), slope
