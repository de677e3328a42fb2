"""The methods of pretraining on images alone, against their papers' formulas in float64, forward and gradient."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from medvlm.core.errors import ShapeError
from medvlm.objectives.ssl import dino, hi_end_mae, mae, simdino, voco
from medvlm.objectives.ssl._base import Moment, make_positions, measure_rank, measure_spread, split_patches
from medvlm.objectives.ssl._terms import measure_information, rise

N = 5
FLAT: Any = SimpleNamespace(width=8, grid=(4, 3), input_shape=(2, 16, 12), can_mask=True)
DEEP: Any = SimpleNamespace(width=8, grid=(2, 2, 3), input_shape=(1, 8, 4, 12), can_mask=True)
HEADS: Any = {"hidden": 16, "width": 6, "local_views": 2, "patch_weight": 0.7}


def alone(done: float = 0.1, memory: dict[str, torch.Tensor] | None = None) -> Moment:
    return Moment(done, 0, lambda *tensors: tensors, memory or {})


def draw(objective: Any, encoder: Any, count: int = N) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    seen = [objective.draw(torch.from_numpy(rng.normal(size=encoder.input_shape)), rng) for _ in range(count)]
    return {name: torch.stack([each[name] for each in seen]) for name in seen[0]}


def leaf(*shape: int, unit: bool = False) -> torch.Tensor:
    made = torch.randn(*shape, dtype=torch.float64)
    return (normalize(made, dim=-1) if unit else made).requires_grad_()


def agree(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], leaves: list[torch.Tensor]) -> None:
    """Values and gradients."""
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)
        mine, theirs = (torch.autograd.grad(each[name], leaves, allow_unused=True, retain_graph=True)
                        for each in (found, expected))  # fmt: skip
        for a, b in zip(mine, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("encoder", [FLAT, DEEP], ids=["2D", "3D"])
def test_mae_is_the_squared_error_of_standardised_masked_patches(encoder: Any) -> None:
    torch.manual_seed(0)
    objective = mae.build(mae.Config(kind="mae", width=12, heads=2, layers=1), encoder)
    views = draw(objective, encoder)
    count, patch = int(np.prod(encoder.grid)), objective.patch
    assert views["kept_K"].shape == (N, count // 4) and {len(set(row.tolist())) for row in views["kept_K"]} == {3}
    own = {"painted_NTP": leaf(N, count, encoder.input_shape[0] * int(np.prod(patch)))}
    total = torch.zeros((), dtype=torch.float64)
    for n in range(N):
        for t, place in enumerate(np.ndindex(*encoder.grid)):
            if t in views["kept_K"][n]:
                continue
            box: Any = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
            pixels = views["pixels"][n][(slice(None), *box)].flatten()
            target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            total = total + ((own["painted_NTP"][n, t] - target) ** 2).mean()
    agree(objective.add_up(alone(), views, own, {}), {"loss": total}, [own["painted_NTP"]])
    assert objective.weigh(views) == {"loss": N * (count - count // 4)}


def test_mae_without_standardising_predicts_the_pixels() -> None:
    objective = mae.build(mae.Config(kind="mae", width=12, heads=2, layers=1, standardise=False), FLAT)
    views = draw(objective, FLAT)
    exact = {"painted_NTP": split_patches(views["pixels"], objective.patch)}
    assert objective.add_up(alone(), views, exact, {})["loss"].item() == 0


def test_hi_end_mae_standardises_as_a_layer_norm_and_reads_every_depth() -> None:
    torch.manual_seed(0)
    settings: Any = {"width": 12, "heads": 2, "layers": 1, "depths": (-2, -3)}
    objective = hi_end_mae.build(hi_end_mae.Config(kind="hi_end_mae", **settings), FLAT).double()
    views = draw(objective, FLAT)
    exact = torch.nn.functional.layer_norm(split_patches(views["pixels"], objective.patch), (32,), eps=1e-6)
    assert objective.add_up(alone(), views, {"painted_NTP": exact}, {})["loss"].item() < 1e-12
    assert objective.encoder_layers == (-1, -2, -3)
    seen = torch.randn(N, 3, 24, dtype=torch.float64, requires_grad=True)
    painted = objective.decode(seen, views["kept_K"])
    assert painted.shape == (N, 12, 12)
    painted.sum(-1)[0, 0].backward()
    assert seen.grad is not None
    each = seen.grad.view(N, 3, 3, 8).abs().sum((1, 3))
    assert (each[0] > 0).all() and (each[1:] == 0).all()
    # Without the block of a depth, this depth changes nothing.
    with torch.no_grad():
        for parameter in objective.cross_blocks[1].multihead_attn.out_proj.parameters():
            parameter.zero_()
        other = torch.cat([seen[..., :16], torch.randn(N, 3, 8, dtype=torch.float64)], -1)
        torch.testing.assert_close(objective.decode(other, views["kept_K"]), objective.decode(seen, views["kept_K"]))


def reference_views(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    pairs = [(g, v) for g in range(2) for v in range(student.shape[1]) if g != v]
    return torch.stack([(teacher[:, g] * student[:, v]).sum() for g, v in pairs]).sum() / len(pairs)


def reference_sinkhorn(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    shares = torch.exp(logits / temperature).T
    shares = shares / shares.sum()
    prototypes, samples = shares.shape
    for _ in range(3):
        shares = shares / shares.sum(1, keepdim=True) / prototypes
        shares = shares / shares.sum(0, keepdim=True) / samples
    return (shares * samples).T


def reference_koleo(vectors: torch.Tensor) -> torch.Tensor:
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        nearest = min(others, key=lambda j: (unit[i] - unit[j]).norm().item())
        losses.append(-torch.log((unit[i] - unit[nearest]).norm()))
    return torch.stack(losses).sum()


def make_outputs(objective: Any, views: dict[str, torch.Tensor], width: int) -> tuple[Any, Any, list[torch.Tensor]]:
    torch.manual_seed(1)
    count, most = len(views["globals"]), views["masked_M"].shape[1]
    own = {"pooled_NGE": leaf(count, 2, 8), "head_NVK": leaf(count, 4, width, unit=True)}
    own["patches_NMK"] = leaf(count, most, width, unit=True)
    taught = {"head_NVK": leaf(count, 2, width, unit=True).detach()}
    taught["patches_NMK"] = leaf(count, most, width, unit=True).detach()
    return own, taught, list(own.values())


@pytest.mark.parametrize("centring", ["sinkhorn", "mean", "none"])
@pytest.mark.parametrize("done", [0.1, 0.9])
@pytest.mark.parametrize("encoder", [FLAT, DEEP], ids=["2D", "3D"])
def test_dino_is_the_cross_entropy_with_the_teachers_assignment(encoder: Any, centring: Any, done: float) -> None:
    config = dino.Config(kind="dino", prototypes=7, centring=centring, **HEADS)
    objective = dino.build(config, encoder)
    views = draw(objective, encoder)
    own, taught, leaves = make_outputs(objective, views, 7)
    temperature = 0.04 + 0.03 * min(done / 0.3, 1)
    memory = {name: torch.randn(7, dtype=torch.float64) * 0.1 for name in ("whole", "patches")}

    def assign(rows: torch.Tensor, name: str) -> torch.Tensor:
        if centring == "sinkhorn":
            return reference_sinkhorn(rows, temperature)
        return ((rows - (memory[name] if centring == "mean" else 0)) / temperature).softmax(-1)

    real = views["shares_M"] > 0
    assert 0 < real.sum() < real.numel()
    target = assign(taught["head_NVK"].flatten(0, 1), "whole").view(N, 2, 7)
    patches = torch.zeros_like(taught["patches_NMK"])
    patches[real] = assign(taught["patches_NMK"][real], "patches")
    of_patches = -(patches * (own["patches_NMK"] / 0.1).log_softmax(-1)).sum(-1)
    expected: dict[str, torch.Tensor] = {
        "whole": -reference_views(target, (own["head_NVK"] / 0.1).log_softmax(-1)),
        "patches": 0.7 * torch.stack([of_patches[n][real[n]].mean() for n in range(N)]).sum(),
        "koleo": 0.1 * torch.stack([reference_koleo(own["pooled_NGE"][:, g]) for g in range(2)]).sum(),
    }
    moment = alone(done, memory)
    found = objective.add_up(moment, views, own, taught)
    # 1e-8 is added to distances, as in the reference code.
    torch.testing.assert_close(found["koleo"], expected["koleo"], rtol=1e-6, atol=1e-6)
    grads = [torch.autograd.grad(each["koleo"], leaves[0], retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)
    # `shares_M` is float32.
    rounded = {name: found[name].detach() for name in ("whole", "patches")}
    torch.testing.assert_close(rounded["patches"], expected["patches"].detach(), rtol=1e-6, atol=1e-6)
    agree({"whole": found["whole"]}, {"whole": expected["whole"]}, leaves)
    grads = [torch.autograd.grad(each["patches"], leaves[2], retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-7)
    assert objective.weigh(views) == {"whole": N, "patches": N, "koleo": N}
    if centring == "mean":
        mean = taught["head_NVK"].flatten(0, 1).mean(0)
        torch.testing.assert_close(moment.upcoming["whole"], 0.9 * memory["whole"] + 0.1 * mean)
        mean = taught["patches_NMK"][real].mean(0)
        torch.testing.assert_close(moment.upcoming["patches"], 0.9 * memory["patches"] + 0.1 * mean)
    else:
        assert not moment.upcoming


@pytest.mark.parametrize("expands", ["mean", "student"])
def test_simdino_is_the_cosine_and_the_coding_rate(expands: Any) -> None:
    config = simdino.Config(kind="simdino", expands=expands, expansion=0.5, **HEADS)
    objective = simdino.build(config, FLAT)
    views = draw(objective, FLAT)
    own, taught, leaves = make_outputs(objective, views, 6)
    real = views["shares_M"] > 0
    cosine = (own["patches_NMK"] * taught["patches_NMK"]).sum(-1)
    rates = []
    for g in range(2):
        vectors = own["head_NVK"][:, g]
        vectors = (vectors + taught["head_NVK"][:, g]) / 2 if expands == "mean" else vectors
        inner = torch.eye(6, dtype=torch.float64) + 6 / (N * 0.05) * sum(torch.outer(z, z) for z in vectors)
        rates.append((6 + N) / (6 * N) * 0.5 * torch.logdet(inner))
    found = objective.add_up(alone(), views, own, taught)
    expected = {
        "whole": -reference_views(taught["head_NVK"], own["head_NVK"]),
        "expansion": -0.5 * sum(rates) / 2 * N,
    }
    patches = -0.7 * torch.stack([cosine[n][real[n]].mean() for n in range(N)]).sum()
    torch.testing.assert_close(found.pop("patches"), patches, rtol=1e-6, atol=1e-6)
    agree(found, expected, leaves)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoder", [FLAT, DEEP], ids=["2D", "3D"])
def test_voco_knows_how_much_of_a_crop_each_base_has(encoder: Any) -> None:
    """Pixels that hold the number of their base: what a crop shows of each is its overlap."""
    changes = {"flip": False, "brightness": 0.0}
    objective = voco.build(voco.Config(kind="voco", crops=3, changes=changes), encoder)  # type: ignore[arg-type]
    assert objective.canvas == tuple(n * k for n, k in zip(encoder.input_shape[1:], objective.bases, strict=True))
    number = torch.arange(9.0).view(*[1] * (len(objective.bases) - 2), 3, 3)
    for axis, side in enumerate(objective.size):
        number = number.repeat_interleave(side, axis)
    rng = np.random.default_rng(0)
    for _ in range(4):
        seen = objective.draw(number[None], rng)
        assert [base.unique().tolist() for base in seen["bases"]] == [[n] for n in range(9)]
        for crop, overlaps in zip(seen["crops"], seen["overlaps_CB"], strict=True):
            shown = torch.stack([(crop == n).double().mean() for n in range(9)])
            torch.testing.assert_close(overlaps.double(), shown, rtol=0, atol=1e-6)
    with pytest.raises(ShapeError, match="smaller than all bases together"):
        objective.draw(number[None, ..., 1:], rng)


def test_voco_is_the_prediction_of_overlaps_within_and_between_volumes() -> None:
    objective = voco.build(voco.Config(kind="voco", width=6, crops=2), DEEP)
    views = draw(objective, SimpleNamespace(input_shape=(1, *objective.canvas)))
    torch.manual_seed(2)
    own = {"projected_NVK": leaf(N, 11, 6, unit=True)}
    taught = {"projected_NVK": leaf(N, 11, 6, unit=True).detach()}

    def predict(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        near, far, weight = (torch.zeros((), dtype=torch.float64) for _ in range(3))
        others = 0
        for p, s in zip(wanted.flatten(), found.flatten(), strict=True):
            near = near - p * torch.log(1 - abs(p - s) + 1e-6)
            weight = weight + p
            if p == 0:
                far, others = far - torch.log(1 - s + 1e-6), others + 1
        return near / (weight + 1e-6) + far / (others + 1e-6)

    expected = {name: torch.zeros((), dtype=torch.float64) for name in ("intra", "inter", "apart")}
    for n in range(N):
        s, t, other = own["projected_NVK"][n], taught["projected_NVK"][n], (n + 1) % N
        s2, t2 = own["projected_NVK"][other], taught["projected_NVK"][other]
        overlaps = views["overlaps_CB"][n].double()
        expected["intra"] = expected["intra"] + predict(overlaps, (s[:2] @ t[2:].T).relu())
        expected["inter"] = expected["inter"] + predict((t[:2] @ t2[2:].T).relu(), (s[:2] @ s2[2:].T).relu())
        pairs = [(s[2 + i] @ s[2 + j].detach()).relu() ** 2 for i in range(9) for j in range(i + 1, 9)]
        expected["apart"] = expected["apart"] + sum(pairs) / len(pairs)
    agree(objective.add_up(alone(), views, own, taught), expected, [own["projected_NVK"]])


def test_one_global_view_is_masked_and_its_patches_are_named() -> None:
    objective = dino.build(dino.Config(kind="dino", prototypes=7, **HEADS), FLAT)
    views = draw(objective, FLAT, 40)
    assert views["globals"].shape == (40, 2, 2, 16, 12) and views["locals"].shape == (40, 2, 2, 8, 4)
    counts = set()
    for hidden, places, shares in zip(views["hidden_GT"], views["masked_M"], views["shares_M"], strict=True):
        count = int((shares > 0).sum())
        assert places[:count].tolist() == hidden.flatten().nonzero()[:, 0].tolist()
        assert hidden.any(1).sum() == 1 and shares.sum().item() == pytest.approx(1)
        counts.add((bool(hidden[0].any()), count))
    assert len(counts) > 6, "views and shares of masked patches are drawn"


def test_momentum_and_temperature_follow_their_schedules() -> None:
    objective = dino.build(dino.Config(kind="dino", prototypes=7, momentum=0.9, **HEADS), FLAT)
    assert [objective.find_momentum(done) for done in (0, 0.5, 1)] == pytest.approx([0.9, 0.95, 1])
    assert [rise(0.04, 0.07, 0.3, done) for done in (0, 0.15, 0.3, 1)] == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_a_collapse_shows_in_the_numbers() -> None:
    torch.manual_seed(0)
    apart, line = torch.randn(32, 16), torch.randn(32, 1) * torch.randn(16)
    same = torch.ones(32, 16) + 1e-9
    assert measure_spread(apart) > 0.9 and measure_spread(same) < 1e-12
    assert 12 < measure_rank(apart) <= 16 and measure_rank(line) == pytest.approx(1, abs=1e-4)
    sure = torch.eye(4).repeat(8, 1)
    assert measure_information(sure) == pytest.approx(np.log(4)) and measure_information(sure[:1].repeat(8, 1)) == 0
    assert measure_information(torch.full((8, 4), 0.25)) == pytest.approx(0, abs=1e-12)


def test_positions_differ_along_every_axis() -> None:
    found = make_positions((3, 4, 5), 32)
    assert found.shape == (60, 32) and len({tuple(row.tolist()) for row in found}) == 60 and (found[:, 30:] == 0).all()
    angles = torch.arange(4) * 10_000 ** (-torch.tensor(1.0) / 8)
    torch.testing.assert_close(make_positions((4,), 16)[:, 1], angles.sin())


@pytest.mark.parametrize("make", [
    lambda encoder: mae.build(mae.Config(kind="mae"), encoder),
    lambda encoder: dino.build(dino.Config(kind="dino", prototypes=8), encoder),
])  # fmt: skip
def test_an_encoder_whose_patches_cannot_be_masked_is_refused(make: Callable[[Any], Any]) -> None:
    with pytest.raises(ShapeError, match="masks patches, which this encoder does not support; use a plain vision"):
        make(SimpleNamespace(**{**vars(FLAT), "can_mask": False}))
