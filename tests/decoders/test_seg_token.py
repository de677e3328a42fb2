"""The decoder that a language model draws with: the token says what to draw, the image where it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from medvlm.core.config import component
from medvlm.core.contracts import Features
from medvlm.core.errors import ShapeError

WIDTH, WORDS = 12, 6


def config(**settings: Any) -> Any:
    own = {"kind": "seg_token", "classes": ("disc",), "width": 32, "layers": 1, **settings}
    return component("decoders", "seg_token").Config(**own)


def build(grid: tuple[int, ...], shape: tuple[int, ...], **settings: Any) -> Any:
    torch.manual_seed(0)
    return component("decoders", "seg_token").build(config(**settings), WIDTH, grid, shape, token_width=WORDS)


@pytest.mark.parametrize(("grid", "shape", "stride"), [((4, 4), (1, 16, 16), 1), ((2, 4, 4), (1, 8, 16, 16), 2)])
def test_one_image_gives_another_mask_for_another_token(grid: Any, shape: Any, stride: int) -> None:
    """Two halves of an image: one token asks for the first, another for the second, and a third for nothing."""
    decoder = build(grid, shape, stride=stride, pixel_width=8)
    pixels = torch.randn(1, *shape)
    patches = torch.randn(1, grid[0] * 16 // (1 if len(grid) == 3 else 4), WIDTH)
    hidden = torch.randn(3, WORDS)
    three = [each.expand(3, *each.shape[1:]) for each in (patches, patches.mean(1), pixels)]
    seen = Features(three[0], three[1], grid, (), three[2])
    labels = torch.zeros(3, 1, *shape[1:])
    labels[0, :, ..., : shape[-1] // 2] = 1
    labels[1, :, ..., shape[-1] // 2 :] = 1
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for _ in range(80):
        masks, presence = decoder(seen, hidden)
        loss = binary_cross_entropy_with_logits(masks[:2], labels[:2])
        loss = loss + binary_cross_entropy_with_logits(presence[:, 0], torch.tensor([1.0, 1.0, 0.0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = masks[:2] > 0
    assert ((found == (labels[:2] == 1)).float().mean((1, 2, 3)) > 0.9).all()
    assert (presence[:, 0] > 0).tolist() == [True, True, False]


def test_the_gradient_reaches_the_hidden_state() -> None:
    decoder = build((2, 2), (3, 8, 8))
    hidden = torch.randn(2, WORDS, requires_grad=True)
    seen = Features(torch.randn(2, 4, WIDTH), torch.randn(2, WIDTH), (2, 2), (), torch.randn(2, 3, 8, 8))
    masks, presence = decoder(seen, hidden)
    of_masks, of_presence = (
        torch.autograd.grad(each.sum(), hidden, retain_graph=True)[0] for each in (masks, presence)
    )
    assert of_masks.abs().sum(1).min() > 0 and of_presence.abs().sum(1).min() > 0


def test_what_cannot_be_is_refused_before_anything_is_built() -> None:
    facts = component("decoders", "seg_token").facts
    with pytest.raises(ShapeError, match="a grid of 2 axes cannot make a mask of 3"):
        facts(config(), WIDTH, (4, 4), (1, 8, 32, 32))
    with pytest.raises(ShapeError, match="3 heads do not divide half the width, 16"):
        facts(config(heads=3), WIDTH, (4, 4), (1, 32, 32))
    with pytest.raises(ValueError, match=r"each wording needs \{names\}"):
        config(asks=("Segment it.",))
    with pytest.raises(ValueError, match="is no token"):
        config(token="a, b")
    with pytest.raises(ValueError, match="always false"):
        config(exclusive=True)


def test_structures_are_asked_for_and_answered_by_name() -> None:
    drawing = config(asks=("Segment the {names}.", "Where is the {names}?"))
    assert drawing.ask(["clip"]) == "Segment the clip."
    assert drawing.ask(["clip", "band"], 1) == "Where is the clip and band?"
    assert drawing.answer(["clip", "band"]) == "clip [SEG], band [SEG]"
