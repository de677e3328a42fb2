"""Attention over the instances of a bag finds the one that decides; the mean of all drowns it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.config import component
from medvlm.core.contracts import Features
from medvlm.core.errors import ShapeError
from medvlm.decoders._attention import Attention, GatedAttention

GRID, WIDTH = (5, 2, 3), 8


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def pool_of(of: str) -> GatedAttention:
    torch.manual_seed(0)
    return GatedAttention(Attention(of=of, width=4), WIDTH).double()  # type: ignore[arg-type]


@pytest.mark.parametrize(("of", "count"), [("tokens", 30), ("views", 5)])
def test_the_weights_are_those_of_the_equation(of: str, count: int) -> None:
    """Ilse et al. 2018, equation 9: softmax of w . (tanh(V h) * sigmoid(U h))."""
    pool, patches = pool_of(of), drawn(2, 30, WIDTH).double()
    features = Features(patches, patches.mean(1), GRID)
    weights, pooled = pool.weigh(features), pool(features)
    assert weights.shape == (2, count) and weights.sum(1).allclose(torch.ones(2).double())
    for bag in range(2):
        instances = patches[bag] if of == "tokens" else patches[bag].reshape(5, 6, WIDTH).mean(1)
        scores = []
        for h in instances:
            content = torch.tanh(pool.content.weight @ h + pool.content.bias)
            gate = 1 / (1 + torch.exp(-(pool.gate.weight @ h + pool.gate.bias)))
            scores.append((pool.score.weight[0] @ (content * gate)).item())
        expected = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        assert weights[bag].tolist() == pytest.approx(expected)
        torch.testing.assert_close(pooled[bag], sum(a * h for a, h in zip(expected, instances, strict=True)))


def test_views_of_an_encoder_without_any_are_refused() -> None:
    module = component("decoders", "linear")
    config = module.Config(kind="linear", classes=("a", "b"), reads="attention", attention={"of": "views"})
    for refuse in (module.facts, module.build):
        with pytest.raises(ShapeError, match=r"attention\.of is views, but the encoder gives a grid of 4 x 4 tokens"):
            refuse(config, WIDTH, (4, 4), (1, 32, 32))
    assert module.facts(config, WIDTH, GRID, None).shape == (2,)


def make_bags(count: int, seed: int) -> tuple[Features, torch.Tensor, torch.Tensor]:
    """Bags of 40 tiles of noise. In those that are positive, one tile has something in one of its 8 features. With the
    label, and the number of that tile."""
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randn(count, 40, WIDTH, generator=generator)
    labels, where = torch.arange(count) % 2, torch.randint(0, 40, (count,), generator=generator)
    tiles[labels == 1, where[labels == 1], 0] = 5
    return Features(tiles, tiles.mean(1), (40,)), labels, where


def fit(**settings: Any) -> nn.Module:
    module = component("decoders", "linear")
    torch.manual_seed(0)
    decoder: nn.Module = module.build(
        module.Config(kind="linear", classes=("absent", "present"), **settings), WIDTH, (40,), (1, 8, 8)
    )
    seen, labels, _ = make_bags(256, 0)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(decoder(seen), labels).backward()
        optimizer.step()
    return decoder


def test_attention_finds_the_tile_that_decides_and_the_mean_does_not() -> None:
    seen, labels, where = make_bags(200, 1)
    by_mean, by_attention = fit(reads="mean"), fit(reads="attention", attention={"width": 16})
    right = {name: (d(seen).argmax(1) == labels).float().mean() for name, d in (("mean", by_mean), ("a", by_attention))}
    assert right["a"] > 0.95 and right["mean"] < 0.85, right
    positive = labels == 1
    found = by_attention.attend.weigh(seen)[positive]
    assert (found.argmax(1) == where[positive]).float().mean() > 0.95
    assert found.max(1).values.mean() > 0.5
