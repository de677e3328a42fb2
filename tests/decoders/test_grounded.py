"""Boxes of phrases: the loss of a set against transformers, places that text and image choose, and the terms of the
recipes that use them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Features, Level
from medvlm.core.decoder_config import MISSING
from medvlm.core.errors import RecipeError, ShapeError
from medvlm.decoders import _bank, _phrases, grounded
from medvlm.models.decoding import Labelled, build_decoding
from medvlm.objectives.heads import set_boxes
from medvlm.recipe.load import load

CLASSES = ("RBC", "WBC", "Platelets")
SIZE = (32, 48)
OBJECTS = torch.full((2, 4, 5), float(MISSING), dtype=torch.float64)
OBJECTS[0, 0] = torch.tensor([1.0, 2, 3, 12, 13])
OBJECTS[0, 2] = torch.tensor([0.0, 20, 18, 30, 40])
OBJECTS[1, 1] = torch.tensor([2.0, 0, 0, 32, 24])
TEXT = {
    "kind": "transformers",
    "max_tokens": 64,
    "config": {
        "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16,
    },
}  # fmt: skip
LEVELS = (Level(6, (8, 12)), Level(8, (4, 6)))


def config_of(**settings: Any) -> Any:
    own = {"classes": CLASSES, "text": TEXT, "width": 16, "heads": 2, "fusions": 1, "layers": 2, "queries": 7}
    return grounded.Config.model_validate({"kind": "grounded", **own, **settings})


def loss_of(**settings: Any) -> Any:
    return set_boxes.Config(kind="set_boxes", **settings)


def build(config: Any, levels: tuple[Level, ...] = LEVELS) -> Any:
    torch.manual_seed(0)
    return grounded.build(config, 6, (8, 12), (3, *SIZE), levels)


def see(count: int = 2) -> Features:
    generator = torch.Generator().manual_seed(1)
    levels = tuple(torch.randn(count, each.width, *each.grid, generator=generator).requires_grad_() for each in LEVELS)
    return Features(levels[0].flatten(2).transpose(1, 2), levels[0].flatten(2).mean(2), (8, 12), levels)


def make_rows(seed: int = 0) -> torch.Tensor:
    own = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = torch.tensor(SIZE, dtype=torch.float64).expand(2, 9, 2)
    return torch.cat([own[..., :3], own[..., 3:].sigmoid(), size], 2)


def test_the_loss_and_its_gradient_are_those_of_transformers() -> None:
    """Deformable DETR's criterion in float64, which Grounding DINO has too; its boxes are (x, y, width, height)."""
    from transformers.loss.loss_deformable_detr import DeformableDetrForObjectDetectionLoss

    ours, theirs = (make_rows().requires_grad_() for _ in "ab")
    swap = [4, 3, 6, 5]
    targets = []
    for objects in OBJECTS:
        known = objects[objects[:, 0] >= 0]
        boxes = set_boxes.to_centres(known[:, 1:] / torch.tensor(SIZE * 2, dtype=torch.float64))
        targets.append({"class_labels": known[:, 0].long(), "boxes": boxes[:, [1, 0, 3, 2]]})
    settings = SimpleNamespace(
        class_cost=1.5, bbox_cost=4.0, giou_cost=3.0, num_labels=3, focal_alpha=0.25, auxiliary_loss=False,
        bbox_loss_coefficient=4.0, giou_loss_coefficient=3.0,
    )  # fmt: skip
    _, parts, _ = DeformableDetrForObjectDetectionLoss(
        theirs[..., :3], targets, torch.device("cpu"), theirs[..., swap], settings
    )
    expected = 1.5 * parts["loss_ce"] + 4 * parts["loss_bbox"] + 3 * parts["loss_giou"]
    config, decoder = loss_of(align=1.5, boxes=4.0, giou=3.0), config_of()
    value = set_boxes.add_up(config, ours, OBJECTS, decoder) / set_boxes.weigh(config, OBJECTS, decoder)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    (mine,), (other,) = torch.autograd.grad(value, ours), torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(mine[..., :7], other[..., :7], rtol=1e-8, atol=1e-10)


def test_giou_is_that_of_torchvision() -> None:
    from torchvision.ops import generalized_box_iou

    torch.manual_seed(0)
    low = torch.rand(2, 20, 2, dtype=torch.float64)
    boxes = torch.cat([low, low + torch.rand(2, 20, 2, dtype=torch.float64)], 2)
    torch.testing.assert_close(set_boxes.find_giou(*boxes), generalized_box_iou(*boxes))


def test_an_image_without_objects_is_of_nothing() -> None:
    rows = make_rows().requires_grad_()
    empty = torch.full_like(OBJECTS, float(MISSING))
    config = loss_of()
    assert set_boxes.weigh(config, empty, config_of()) == 0
    value = set_boxes.add_up(config, rows, empty, config_of())
    share = rows[..., :3].sigmoid()
    assert value.item() == pytest.approx((0.75 * share**2 * -(1 - share).log()).sum().item())
    (slope,) = torch.autograd.grad(value, rows)
    assert not slope[..., 3:].any()


def test_boxes_are_pixels_with_the_surest_first() -> None:
    config = config_of(least=0.3, overlap=0.5)
    told = torch.tensor([[2.0, -9, -9], [3.0, -9, -9], [-9, 1.0, -9], [-9, -9, -9]])
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.45], [0.25, 0.75, 0.5, 0.25], [0.5, 0.5, 1, 1]])
    rows = torch.cat([told, boxes, torch.tensor(SIZE).float().expand(4, 2)], 1)
    (found,) = grounded.to_answers(config, rows[None])
    expected = torch.tensor([[0, 3.0, 8, 13.2, 24, 34.8], [1, 1.0, 0, 30, 16, 42]])
    expected[:, 1] = expected[:, 1].sigmoid()
    torch.testing.assert_close(found[:2], expected)
    assert (found[2:] == MISSING).all()


def test_the_output_has_queries_and_its_sides_are_of_the_same_form() -> None:
    config, decoder = config_of(), build(config_of())
    out = decoder.train()(see())
    assert len(out) == 1 + len(decoder.sides) == 3 and all(each.shape == (2, 7, 9) for each in out)
    assert decoder.eval()(see()).shape == (2, 7, 9)
    assert torch.equal(out[0][..., 7:], torch.tensor(SIZE).float().expand(2, 7, 2))
    total: Any = sum(set_boxes.add_up(loss_of(), each, OBJECTS, config) for each in out)
    total.backward()
    without = [name for name, p in decoder.named_parameters() if p.grad is None]
    assert not without, without
    with pytest.raises(ShapeError, match="takes volumes"):
        grounded.facts(config, 6, (2, 4, 4), (1, 8, 32, 32))


def test_it_reads_patches_where_the_encoder_has_no_levels() -> None:
    decoder = build(config_of(), ()).eval()
    seen = see()
    assert decoder(Features(seen.patches, seen.pooled, (8, 12))).shape == (2, 7, 9)


def test_a_phrase_decides_and_other_phrases_need_no_other_weights() -> None:
    """The logits of a phrase are the same at any place in the list, and a decoder of other classes has the weights."""
    torch.manual_seed(0)
    first, turned = build(config_of()).eval(), build(config_of(classes=CLASSES[::-1])).eval()
    turned.load_state_dict(first.state_dict())
    a, b = first(see()), turned(see())
    torch.testing.assert_close(a[..., :3], b[..., :3].flip(2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a[..., 3:], b[..., 3:], rtol=1e-4, atol=1e-5)
    told = build(config_of(phrases={"WBC": "a white blood cell"})).eval()
    told.load_state_dict(first.state_dict())
    assert not torch.allclose(told(see())[..., 1], a[..., 1], atol=1e-4)


def test_an_exported_decoder_has_its_tokens() -> None:
    config = config_of(phrases={"WBC": "weiße Zelle"})
    alone = grounded.standalone(config)
    assert alone.ids[1] == (257, *"weiße Zelle".encode(), 258) and len(alone.ids) == 3
    again = grounded.Config.model_validate(alone.model_dump(mode="json"))
    first, second = build(config).eval(), build(again).eval()
    torch.testing.assert_close(first(see()), second(see()))


def test_long_phrases_and_phrases_of_no_class_are_refused() -> None:
    with pytest.raises(RecipeError, match="has 102 tokens, and its text tower reads 64"):
        build(config_of(phrases={"WBC": "x" * 100}))
    short = {**TEXT, "overlong": "cut"}
    assert len(_phrases.tokenize(config_of(text=short).text, ["x" * 100])[0]) == 64
    with pytest.raises(ValueError, match="'wbc' is none of the classes"):
        config_of(phrases={"wbc": "a cell"})
    with pytest.raises(ValueError, match="3 heads do not divide"):
        config_of(heads=3)


def test_places_and_prompts_choose_each_other() -> None:
    """By hand: two levels of 4 x 4 and 2 x 2 places, a phrase and six prompts. The coarse level has fewer places than
    are kept. A fine place scores the mean of its own attention to the bank and of what lies above it."""
    shares = torch.full((1, 20, 7), 1e-3)
    shares[0, 5, 1] = 0.9  # a fine place that reads the first prompt
    shares[0, 16, 2] = 0.8  # the upper left coarse place reads the second one
    shares[..., 0] = 1 - shares[..., 1:].sum(2)
    kept, used = _bank.choose(shares, [(4, 4), (2, 2)], 1)
    assert kept.shape == (1, 20) and used.shape == (1, 7) and kept[0, 16:].all()
    assert kept[0].sum() == 4 + 16  # 5 of 4 places, and 20 of 16
    assert used[0, :3].all() and used.sum() == 1 + _bank.PROMPTS
    fine, _ = _bank.choose(shares.repeat(1, 4, 1)[:, :68], [(8, 8), (2, 2)], 1)
    assert fine[0, :64].sum() == 20


def small(recipe: Any) -> dict[str, Any]:
    """The decoders of a recipe at toy size, with a text tower from scratch."""
    found = {}
    for name, decoder in recipe.model.decoders.items():
        text = decoder.text.model_copy(update={"model": "", "config": TEXT["config"], "max_tokens": 256})
        kept = component("decoders", decoder.kind).scale_down(decoder)
        found[name] = kept.model_copy(update={"text": text, "width": 16, "layers": 2})
    return found


def learn(decoder: Any, losses: Any, weights: Any) -> tuple[float, torch.Tensor]:
    seen = see()
    outputs = build(decoder).train()(seen)
    labels = OBJECTS.float()
    labels[..., 0] = labels[..., 0].clamp(max=len(decoder.classes) - 1)
    total = sum(
        factor * loss.weight * set_boxes.add_up(loss, each, labels, decoder) / set_boxes.weigh(loss, labels, decoder)
        for loss in losses for factor, each in zip((1, *weights), outputs, strict=False)
    )  # fmt: skip
    return total.item(), torch.autograd.grad(total, seen.levels[0])[0]


def weigh_of(stage: Any, name: str) -> Any:
    return stage.losses[name], stage.sides[name]


@pytest.mark.parametrize("off", ["bank", "selects", "giou"])
def test_without_a_term_structural_glip_learns_something_else(off: str) -> None:
    recipe = load("systems/structural_glip.yaml").recipe
    decoder, (losses, sides) = small(recipe)["cells"], weigh_of(recipe.stages[0], "cells")
    assert len(decoder.bank) > _bank.PROMPTS and decoder.selects
    whole, slope = learn(decoder, losses, sides)
    assert learn(decoder, losses, sides)[0] == whole, "it is not only the term that differs"
    if off == "giou":
        losses = [each.model_copy(update={"giou": 0.0}) for each in losses]
    else:
        decoder = decoder.model_copy(update={off: () if off == "bank" else False})
    less, other = learn(decoder, losses, sides)
    assert less != pytest.approx(whole, rel=1e-6) and (slope - other).norm() > 1e-3 * slope.norm() > 0


@pytest.mark.parametrize("off", ["fusions", "phrases", "align"])
def test_without_a_term_med_glip_learns_something_else(off: str) -> None:
    recipe = load("systems/med_glip.yaml").recipe
    decoder, (losses, sides) = small(recipe)["findings"], weigh_of(recipe.stages[0], "findings")
    whole, slope = learn(decoder, losses, sides)
    if off == "align":
        losses = [each.model_copy(update={"align": 1e-9}) for each in losses]
    else:
        decoder = decoder.model_copy(update={off: 0 if off == "fusions" else {}})
    less, other = learn(decoder, losses, sides)
    assert less != pytest.approx(whole, rel=1e-6) and (slope - other).norm() > 1e-3 * slope.norm() > 0


def test_each_modality_of_med_glip_has_an_encoder_that_the_other_does_not_train() -> None:
    recipe = load("systems/med_glip.yaml").recipe
    cells = small(recipe)["cells"]
    assert [recipe.model.decoders[name].encoder for name in ("findings", "cells")] == ["film", "smear"]
    assert recipe.model.decoders["findings"].text == recipe.model.decoders["cells"].text
    towers = recipe.model.encoders
    net = {"net": "test_resnet", "pretrained": False, "allow_unexpected": ()}
    towers = {
        name: each.model_copy(update={**net, "preprocess": each.preprocess.model_copy(update={"size": (64, 64)})})
        for name, each in towers.items()
    }

    def train(reads: str, has: tuple[str, ...]) -> set[str]:
        decoders = {"cells": cells.model_copy(update={"encoder": reads})}
        model = build_decoding({name: towers[name] for name in has}, decoders, seed=0)
        batch = Labelled({reads: torch.randn(2, 3, 64, 64)}, {"cells": torch.arange(2)})
        model(batch)["decoders.cells"].sum().backward()
        return {
            name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and "encoders." in name
        }

    assert train("smear", ("film", "smear")) == {"smear"} and train("film", ("film",)) == {"film"}


def test_the_size_of_the_input_is_exact_where_the_network_computes_in_bfloat16() -> None:
    torch.manual_seed(0)
    decoder = grounded.build(config_of(), 6, (8, 12), (3, 518, 1333), LEVELS).eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder(see())
    assert found[..., -2:].unique(dim=1)[:, 0].tolist() == [[518, 1333]] * 2
