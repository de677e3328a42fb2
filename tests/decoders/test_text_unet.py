"""The U-Net that texts condition: what they change, its head against convolutions, and the terms of DuPLUS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d, elu

from medvlm.core.config import component
from medvlm.core.contracts import Features, Level
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import ABOUT, ASKED, ReadTexts, TextWidth
from medvlm.data.prompts import Prompt, stack_prompts
from medvlm.decoders.text_unet import DynamicHead
from medvlm.recipe.load import load

TEXT, WIDTHS = TextWidth(12, 12), (4, 6, 8)


def make(size: tuple[int, ...] = (12, 16), levels: tuple[Level, ...] = (), **settings: Any) -> Any:
    module, own = component("decoders", "text_unet"), {"classes": ("liver", "spleen"), "widths": WIDTHS}
    config = module.Config.model_validate({"kind": "text_unet", **own, **settings})
    torch.manual_seed(0)
    built = module.build(config, 8, (1,) * len(size), (1, *size), TEXT, **({"levels": levels} if levels else {}))
    for name, parameter in built.named_parameters():
        if ".film." in name:  # they begin at 0, where no text has an effect
            torch.nn.init.normal_(parameter, std=0.3)
    return built


def see(count: int, size: tuple[int, ...] = (12, 16), levels: tuple[torch.Tensor, ...] = ()) -> Features:
    pixels = torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(1))
    flat = pixels.flatten(1)
    return Features(flat[:, None], flat, (1,) * len(size), levels, pixels)


def ask(rows: list[int], texts: list[int], about: list[int] | None = None) -> Any:
    """Prompts on these media, with texts by their numbers."""
    vectors = torch.randn(4, TEXT.pooled, generator=torch.Generator().manual_seed(2))
    made = stack_prompts([Prompt(0, ("text",)) for _ in rows])
    given = {ASKED: texts, ABOUT: about or [3] * len(rows)}
    read = {
        what: ReadTexts(vectors[own], vectors[own][:, None], torch.ones(len(own), 1)) for what, own in given.items()
    }
    return made.__class__(**{**vars(made), "read": read, "rows_S": torch.tensor(rows)})


SETTINGS: list[dict[str, Any]] = [
    {},
    {"head": "plain"},
    {"modulates": "about", "about": {"film": "a film"}},
    {"modulates": "none"},
]


@pytest.mark.parametrize("size", [(12, 16), (6, 8, 8)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_is_asked_changes_the_mask_and_objects_do_not_change_each_other(
    settings: dict[str, Any], size: tuple[int, ...]
) -> None:
    built, features = make(size, **settings), see(2, size)
    whole = built(features, ask([0, 1, 1], [0, 0, 1]))[""]
    assert whole.shape == (3, 1, *size) and not torch.allclose(whole[1], whole[2], atol=1e-4)
    for number, (row, text) in enumerate(((0, 0), (1, 0), (1, 1))):
        alone = replace(features, pixels=features.pixels[row : row + 1])  # type: ignore[index]
        torch.testing.assert_close(built(alone, ask([0], [text]))[""][0], whole[number], rtol=1e-4, atol=1e-5)
    whole.sum().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())


def test_what_is_said_about_a_medium_changes_its_mask_alone() -> None:
    built, features = make(modulates="about", about={"film": "a film"}), see(2)
    one, other = (built(features, ask([0, 1], [0, 0], about))[""] for about in ([3, 3], [3, 2]))
    assert torch.allclose(one[0], other[0]) and not torch.allclose(one[1], other[1], atol=1e-4)


def test_levels_of_a_tower_are_the_way_down() -> None:
    levels = (Level(5, (6, 8)), Level(7, (3, 4)))
    built = make(levels=levels, tower=True)
    maps = tuple(torch.randn(1, level.width, *level.grid).requires_grad_() for level in levels)
    built(see(1, levels=maps), ask([0], [0]))[""].sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in maps)
    with pytest.raises(ShapeError, match=r"widths has 3 maps.* has 1 levels; list 2 widths"):
        make(levels=levels[:1], tower=True)


def test_the_head_is_three_convolutions_with_the_written_weights() -> None:
    torch.manual_seed(0)
    head = DynamicHead(12, 6, 3).double()
    maps, coarse, text = (torch.randn(2, n, *rest).double() for n, rest in ((3, (4, 5)), (6, ()), (12, ())))
    found = head(maps.requires_grad_(), coarse, text)
    written = head.write(torch.cat([coarse, head.from_text(text)], 1))
    expected = []
    for own, row in zip(written, maps, strict=True):
        parts, x = own.split([9, 3, 9, 3, 3, 1]), row[None]
        x = elu(conv2d(x, parts[0].view(3, 3, 1, 1), parts[1]))
        x = elu(conv2d(x, parts[2].view(3, 3, 1, 1), parts[3]))
        expected.append(conv2d(x, parts[4].view(1, 3, 1, 1), parts[5]))
    torch.testing.assert_close(found, torch.cat(expected))
    weights = torch.randn_like(found)
    mine, theirs = (torch.autograd.grad((each * weights).sum(), maps)[0] for each in (found, torch.cat(expected)))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("off", [{}, {"modulates": "none"}, {"head": "plain", "modulates": "asked"}, {"bounds": 0.5}])
def test_duplus_is_another_without_each_of_its_terms(off: dict[str, Any]) -> None:
    recipe = load("systems/duplus.yaml").recipe
    stage, whole = recipe.stages[0], recipe.model.decoders["organs"]
    tversky, entropy = stage.losses["organs"]
    assert (whole.modulates, whole.head, tversky.kind) == ("about", "dynamic", "adaptive_tversky")
    assert entropy.weight == 0.5 and len(whole.texts) == len(whole.classes) == 13

    def learn(**changed: Any) -> tuple[float, torch.Tensor]:
        share = changed.pop("bounds", None)
        own = {key: getattr(whole, key) for key in ("modulates", "head", "about", "objects")} | changed
        built = make(**own)
        logits = built(see(2), ask([0, 1, 1], [0, 1, 2], [3, 2, 2]))[""]
        labels = (torch.arange(logits.numel()).view(logits.shape) % 5 == 0).long()
        loss = tversky.model_copy(update={"bounds": (share, share)} if share else {})
        judged = whole.as_one()
        total = component("objectives.heads", loss.kind).add_up(loss, logits, labels, judged)
        total.backward()
        return total.item(), built.stem.first.weight.grad

    (loss, slope), (other, other_slope) = learn(), learn(**off)
    assert (loss == other and torch.equal(slope, other_slope)) == (not off)
