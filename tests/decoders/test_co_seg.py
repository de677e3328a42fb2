"""Two tasks that prompt each other, and the terms of Co-Seg++ and PAXRay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax

from medvlm.core.config import component
from medvlm.core.contracts import Features, Level
from medvlm.core.errors import ShapeError
from medvlm.decoders import co_seg
from medvlm.objectives.heads import flat_dice
from medvlm.recipe.load import load

CLASSES = ("lymphocyte", "tumor", "stroma")
GRID, SIZE = (4, 6), (64, 96)


def config_of(**settings: Any) -> Any:
    own = {"classes": CLASSES, "second": ("lymphocyte",), "width": 32, "heads": 2, "layers": 1}
    return co_seg.Config.model_validate({"kind": "co_seg", **own, **settings})


def build(config: Any) -> Any:
    torch.manual_seed(0)
    return co_seg.build(config, 12, GRID, (3, *SIZE))


def see() -> Features:
    patches = torch.randn(2, 24, 12, generator=torch.Generator().manual_seed(1), requires_grad=True)
    return Features(patches, patches.mean(1), GRID)


def test_each_task_is_drawn_again_by_what_was_drawn_of_the_other() -> None:
    """Without the prompt of its own, the second pass of a task is the same whatever the other one drew."""
    decoder, seen = build(config_of()).eval(), see()
    assert decoder(seen).shape == (2, 3, *SIZE) and decoder.sides == (SIZE,) and decoder.terms == ("agreement",)
    given: list[torch.Tensor] = []
    for encode in decoder.prompt:
        encode.register_forward_hook(lambda module, inputs, out: given.append(inputs[0]))
    whole = decoder(seen)
    assert [each.shape[1] for each in given] == [1, 2]  # tissue reads the nuclei, nuclei read both tissues
    with torch.no_grad():
        decoder.draw[1].name[-1].bias += 1  # nuclei are drawn otherwise
    moved = decoder(seen)
    assert not torch.allclose(moved[:, 1:], whole[:, 1:], atol=1e-5)


def test_maps_stand_in_the_order_of_the_classes() -> None:
    decoder, seen = build(config_of(prompts=False)).eval(), see()
    with torch.no_grad():
        for draw in decoder.draw:
            draw.name[-1].weight.zero_()
            draw.name[-1].bias.zero_()
        decoder.draw[1].name[-1].bias += 1
    out = decoder(seen)
    assert out[:, 0].any() and not out[:, 1:].any() and decoder.sides == ()


def test_the_agreement_is_the_symmetric_divergence_of_the_authors() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 1, 8, dtype=torch.float64), torch.randn(3, 4, 8, dtype=torch.float64)
    x, y = a.mean(1), b.mean(1)
    forth = kl_div(log_softmax(x, 1), softmax(y, 1), reduction="none").mean()
    back = kl_div(log_softmax(y, 1), softmax(x, 1), reduction="none").mean()
    assert co_seg.differ(a, b).mean().item() == pytest.approx((forth + back).item() / 2, rel=1e-5)
    assert co_seg.differ(a, a).tolist() == pytest.approx([0] * 3, abs=1e-7)


def test_tasks_without_classes_and_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match="'nucleus' is none of the classes"):
        config_of(second=("nucleus",))
    with pytest.raises(ValueError, match="leave some to the first"):
        config_of(second=CLASSES)
    with pytest.raises(ShapeError, match="takes volumes"):
        co_seg.facts(config_of(), 12, (2, 4, 4), (1, 8, 32, 32))


def test_flat_dice_is_the_formula_of_the_authors() -> None:
    """In float64, forward and gradient, for each sample; an absent label changes nothing but its own predictions."""
    config = flat_dice.Config(kind="flat_dice")
    decoder = component("decoders", "linear").Config(kind="linear", classes=CLASSES, exclusive=False)
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    labels = torch.randint(0, 2, (2, 3, 5, 7))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = flat_dice.add_up(config, ours, labels, decoder) / flat_dice.weigh(config, labels, decoder)
    p, t = theirs.sigmoid().flatten(1), labels.flatten(1)
    expected = (1 - ((p * t).sum(1) + 1) / ((p**2 + t**2).sum(1) + 1)).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (a,), (b,) = torch.autograd.grad(value, ours), torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def learn(decoder: Any, config: Any, losses: Any, sides: Any, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    seen = see()
    out = decoder.train()(seen)
    total = torch.zeros(())
    for factor, logits in zip((1.0, *sides), out.logits, strict=False):
        for loss in losses:
            by = component("objectives.heads", loss.kind)
            total = total + factor * loss.weight * by.add_up(loss, logits, labels, config) / by.weigh(
                loss, labels, config
            )
    total = total + sum((each.mean() for each in out.terms.values()), torch.zeros(()))
    return total.item(), torch.autograd.grad(total, seen.patches)[0]


@pytest.mark.parametrize("off", ["prompts", "agreement", "sides"])
def test_without_a_term_co_seg_learns_something_else(off: str) -> None:
    recipe = load("systems/co_seg.yaml").recipe
    stage, decoder = recipe.stages[0], co_seg.scale_down(recipe.model.decoders["region"])
    losses, sides = stage.losses["region"], stage.sides["region"]
    labels = torch.zeros(2, 4, *SIZE, dtype=torch.long)
    labels[:, 0, 8:40, 8:60] = labels[:, 2, 20:30, 20:30] = labels[:, 3, 50:60, 70:80] = 1
    whole, slope = learn(build(decoder), decoder, losses, sides, labels)
    assert learn(build(decoder), decoder, losses, sides, labels)[0] == whole
    if off == "sides":
        sides = ()
    else:
        decoder = decoder.model_copy(update={off: False if off == "prompts" else 0.0})
    less, other = learn(build(decoder), decoder, losses, sides, labels)
    assert less != pytest.approx(whole, rel=1e-6) and (slope - other).norm() > 1e-3 * slope.norm() > 0


@pytest.mark.parametrize("off", ["flat_dice", "binary_cross_entropy", "overlap"])
def test_without_a_term_paxray_learns_something_else(off: str) -> None:
    """Labels that overlap; without that, a pixel has the last one of its structures alone."""
    recipe = load("systems/paxray.yaml").recipe
    decoder, losses = recipe.model.decoders["anatomy"], list(recipe.stages[0].losses["anatomy"])
    assert not decoder.exclusive and {"lung_overall", "lung_left", "heart"} <= set(decoder.classes)
    small = decoder.model_copy(update={"width": 8, "classes": ("lung_overall", "lung_left", "heart")})
    torch.manual_seed(0)
    levels = (torch.randn(2, 6, 8, 8, requires_grad=True), torch.randn(2, 8, 4, 4))
    module = component("decoders", small.kind)
    net = module.build(small, 6, (8, 8), (1, 32, 32), (Level(6, (8, 8)), Level(8, (4, 4))))
    labels = torch.zeros(2, 3, 32, 32, dtype=torch.long)
    labels[:, 0, 4:28, 2:30] = labels[:, 1, 4:28, 16:30] = labels[:, 2, 16:28, 12:22] = 1

    def measure(chosen: Any, marked: torch.Tensor) -> tuple[float, torch.Tensor]:
        logits = net(Features(levels[0].flatten(2).transpose(1, 2), levels[0].flatten(2).mean(2), (8, 8), levels))
        total = torch.zeros(())
        for loss in chosen:
            by = component("objectives.heads", loss.kind)
            total = total + loss.weight * by.add_up(loss, logits, marked, small) / by.weigh(loss, marked, small)
        return total.item(), torch.autograd.grad(total, levels[0])[0]

    whole, slope = measure(losses, labels)
    if off == "overlap":
        last = labels * (labels.flip(1).cumsum(1).flip(1) == 1)
        less, other = measure(losses, last)
    else:
        less, other = measure([each for each in losses if each.kind != off], labels)
    assert less != pytest.approx(whole, rel=1e-6) and (slope - other).norm() > 1e-3 * slope.norm() > 0
