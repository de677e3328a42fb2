"""Contrastive losses against the papers' lines in float64, with and without duplicate reports."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from medvlm.objectives.pairs import clip, siglip
from medvlm.objectives.pairs._ring import Ring, add_up_ring

N, P = 6, 8
CONCEPTS = torch.tensor([3, 1, 3, 2, 1, 3])
EYE = torch.eye(N, dtype=torch.bool)
SAME = CONCEPTS[:, None] == CONCEPTS[None, :]
WHOLE = slice(0, N)
CLIP, SIGLIP = clip.Config(kind="clip"), siglip.Config(kind="siglip")


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, texts = (normalize(torch.randn(N, P, generator=generator), dim=1).requires_grad_() for _ in range(2))
    return images, texts


def test_clip_without_duplicates_is_torchs_cross_entropy_both_ways() -> None:
    images, texts = embeddings()
    log_scale = torch.tensor(2.0)
    logits = log_scale.exp() * images @ texts.T
    expected = (
        cross_entropy(logits, torch.arange(N), reduction="sum")
        + cross_entropy(logits.T, torch.arange(N), reduction="sum")
    ) / 2
    assert clip.pair_loss(CLIP, images, texts, WHOLE, log_scale, None, EYE).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_clip_with_duplicates_shares_the_target_among_all_right_answers() -> None:
    images, texts = embeddings()
    x, y, scale = images.detach().double().numpy(), texts.detach().double().numpy(), math.exp(2.0)
    expected = 0.0
    for i in range(N):
        right = [j for j in range(N) if CONCEPTS[j] == CONCEPTS[i]]
        for a, b in ((x, y), (y, x)):
            similarities = [scale * float(a[i] @ b[j]) for j in range(N)]
            total = math.log(sum(math.exp(s) for s in similarities))
            expected += sum((total - similarities[j]) / len(right) for j in right) / 2
    assert clip.pair_loss(CLIP, images, texts, WHOLE, torch.tensor(2.0), None, SAME).item() == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("same", [EYE, SAME], ids=["no duplicates", "duplicates"])
def test_siglip_is_one_coin_per_pair(same: torch.Tensor) -> None:
    images, texts = embeddings()
    x, y, scale, bias = images.detach().double().numpy(), texts.detach().double().numpy(), math.exp(1.0), -2.0
    expected = 0.0
    for i in range(N):
        for j in range(N):
            z = 1 if same[i, j] else -1
            expected += math.log(1 + math.exp(-z * (scale * float(x[i] @ y[j]) + bias)))
    got = siglip.pair_loss(SIGLIP, images, texts, WHOLE, torch.tensor(1.0), torch.tensor(bias), same)
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_siglip_of_zero_logits_costs_every_row_n_log_2() -> None:
    images, texts = torch.eye(2 * N)[:N], torch.eye(2 * N)[N:]
    assert siglip.pair_loss(SIGLIP, images, texts, WHOLE, torch.tensor(3.0), None, EYE).item() == pytest.approx(
        N * N * math.log(2)
    )


@pytest.mark.parametrize("objective, config", [(clip, CLIP), (siglip, SIGLIP)], ids=["clip", "siglip"])
def test_shares_of_the_ranks_add_up_to_the_whole_loss_and_its_gradient(objective: object, config: object) -> None:
    images, texts = embeddings()
    log_scale, bias = torch.tensor(1.0, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    inputs = [images, texts, log_scale]
    whole = objective.pair_loss(config, images, texts, WHOLE, log_scale, bias, SAME)  # type: ignore[attr-defined]
    shares = [
        objective.pair_loss(config, images, texts, own, log_scale, bias, SAME)  # type: ignore[attr-defined]
        for own in (slice(0, 2), slice(2, 5), slice(5, 6))
    ]
    assert sum(s.item() for s in shares) == pytest.approx(whole.item(), rel=1e-6)
    for a, b in zip(torch.autograd.grad(whole, inputs), torch.autograd.grad(sum(shares), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_two_directions_of_clip_are_weighed_as_in_convirt() -> None:
    """lambda of finding the text of an image, 1 - lambda of finding the image of a text (arXiv 2010.00747, equation
    4)."""
    images, texts = embeddings()
    logits, own = math.exp(2.0) * images @ texts.T, torch.arange(N)
    expected = 0.75 * cross_entropy(logits, own, reduction="sum") + 0.25 * cross_entropy(logits.T, own, reduction="sum")
    config = clip.Config(kind="clip", to_texts=0.75)
    got = clip.pair_loss(config, images, texts, WHOLE, torch.tensor(2.0), None, EYE)
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    assert abs(got.item() - clip.pair_loss(CLIP, images, texts, WHOLE, torch.tensor(2.0), None, EYE).item()) > 1e-3


def test_the_scale_of_clip_stops_at_100() -> None:
    """As in CLIP's own training: beyond it the loss is unstable."""
    images, texts = embeddings()
    at, beyond = (
        clip.pair_loss(CLIP, images, texts, WHOLE, torch.tensor(math.log(s)), None, EYE).item() for s in (100.0, 500.0)
    )
    assert at == pytest.approx(beyond, rel=1e-6)


def test_a_scale_beyond_the_limit_still_has_its_gradient() -> None:
    """Pairs that belong together and are told apart: a smaller scale costs less, at the limit and beyond it."""
    images, _ = embeddings()
    slopes = []
    for scale in (100.0, 120.0):
        log_scale = torch.tensor(math.log(scale), requires_grad=True)
        clip.pair_loss(CLIP, images, -images, WHOLE, log_scale, None, EYE).backward()
        assert log_scale.grad is not None
        slopes.append(log_scale.grad.item())
    assert slopes[0] > 0 and slopes[1] == pytest.approx(slopes[0], rel=1e-5)


def test_losses_begin_where_their_papers_begin() -> None:
    scale, bias = clip.start(clip.Config(kind="clip"))
    assert math.exp(scale) == pytest.approx(1 / 0.07) and bias is None
    scale, bias = siglip.start(siglip.Config(kind="siglip"))
    assert math.exp(scale) == pytest.approx(10) and bias == -10
    assert math.exp(clip.start(clip.Config(kind="clip", temperature=0.02))[0]) == pytest.approx(50)


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            self.most = max(self.most, each.numel() if isinstance(each, torch.Tensor) else 0)
        return made


def go_around(objective: Any, config: Any, world: int, size: int) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Losses and gradients of ranks of `size` pairs each, joined in order; what they should be; and the size of the
    largest tensor. Each rank is a thread."""
    generator = torch.Generator().manual_seed(1)
    images, texts = (normalize(torch.randn(world * size, P, generator=generator).double(), dim=1) for _ in range(2))
    concepts = torch.arange(world * size) % 4
    box: list[tuple[torch.Tensor, ...]] = [()] * world
    barrier = Barrier(world)

    def rank_of(rank: int) -> tuple[list[torch.Tensor], float, int]:
        def rotate(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            box[rank] = tensors
            barrier.wait(60)
            arrived = box[(rank - 1) % world]
            barrier.wait(60)
            return arrived

        own = slice(rank * size, (rank + 1) * size)
        leaves = [images[own], texts[own], torch.tensor(1.5).double(), torch.tensor(-1.0).double()]
        inputs = [each.clone().requires_grad_() for each in leaves]
        with Largest() as seen:
            x, y, scale, bias = inputs
            loss, hits = add_up_ring(objective, config, x, y, concepts[own], scale, bias, Ring(rotate, world))
            loss.backward()
        return [loss.detach(), *(torch.zeros(()) if x.grad is None else x.grad for x in inputs)], hits, seen.most

    with ThreadPoolExecutor(world) as pool:
        found = list(pool.map(rank_of, range(world)))
    inputs = [images, texts, torch.tensor(1.5).double(), torch.tensor(-1.0).double()]
    inputs = [each.requires_grad_() for each in inputs]
    same = concepts[:, None] == concepts
    whole = objective.pair_loss(config, *inputs[:2], slice(0, world * size), *inputs[2:], same)
    slopes = torch.autograd.grad(whole, inputs, allow_unused=True)
    best = same.gather(1, (images @ texts.T).argmax(1)[:, None]).sum()
    assert sum(hits for _, hits, _ in found) == best.item() > 0
    parts = list(zip(*(tensors for tensors, _, _ in found), strict=True))
    joined = [sum(parts[0]), *(torch.cat(each) for each in parts[1:3]), sum(parts[3])]
    expected = [whole, *slopes[:3]]
    if slopes[3] is not None:  # the loss of clip takes no bias
        joined, expected = [*joined, sum(parts[4])], [*expected, slopes[3]]
    return joined, expected, max(most for _, _, most in found)


@pytest.mark.parametrize(
    "objective, config", [(clip, clip.Config(kind="clip", to_texts=0.75)), (siglip, SIGLIP)], ids=["clip", "siglip"]
)
def test_pairs_that_travel_give_the_loss_and_gradient_of_all_and_memory_does_not_grow(
    objective: Any, config: Any
) -> None:
    largest = []
    for world in (1, 2, 5):
        joined, expected, most = go_around(objective, config, world, 12)
        for found, right in zip(joined, expected, strict=True):
            # The shares of targets are float32 in the whole loss.
            torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-7)
        largest.append(most)
    assert largest == [12 * 12] * 3
