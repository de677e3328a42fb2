"""Graph matching: the solver against all permutations, the loss and its gradient against their formulas."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.objectives.ssl import lvm_med
from medvlm.objectives.ssl._base import Moment

FLAT: Any = SimpleNamespace(width=8, grid=(4, 3), input_shape=(2, 16, 12))
B, D = 5, 2
SEEN = torch.arange(B)
ALONE = Moment(0.1, 0, lambda *tensors: tensors)


def made(**settings: Any) -> Any:
    given = {"kind": "lvm_med", "width": 6, "hidden": 8, "parts": 2, "neighbours": D, **settings}
    return lvm_med.build(lvm_med.Config.model_validate(given), FLAT).double()


def outputs(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    shapes = {"nodes_NVK": (B, 2, 6), "told_NVK": (B, 2, 6), "parts_NVPK": (B, 2, 4, 6)}
    found = {name: torch.randn(*shape, dtype=torch.float64) for name, shape in shapes.items()}
    found["parts_NVPK"] = torch.nn.functional.normalize(found["parts_NVPK"], dim=-1)
    return {name: tensor.requires_grad_() for name, tensor in found.items()}


def views() -> dict[str, torch.Tensor]:
    return {"views": torch.zeros(B, 2), "seed": torch.arange(B)}


def value_of(found: Any, nodes: np.ndarray, edges: np.ndarray, near: list[np.ndarray]) -> float:
    """The likeness of a matching: of its nodes, and of the edges whose both ends are matched."""
    total = sum(nodes[i, found[i]] for i in range(B))
    for i in range(B):
        for a, k in enumerate(near[0][i]):
            for b, other in enumerate(near[1][found[i]]):
                total += edges[i, a, found[i], b] * (other == found[k])
    return float(total)


def match(*given: np.ndarray) -> np.ndarray:
    return lvm_med.match(*map(torch.from_numpy, given)).numpy()


def test_the_solver_finds_planted_matchings_and_comes_near_to_the_best_ones() -> None:
    """Beside all permutations. It is an approximation: of nodes alone the best in most cases, of random edges, which is
    the hardest case, most of the likeness that there is."""
    rng = np.random.default_rng(0)
    found_by_edges = found_by_nodes = best_of_nodes = 0
    shares = []
    for _ in range(10):
        nodes, edges = rng.normal(size=(B, B)), rng.normal(size=(B, D, B, D))
        near = [np.stack([rng.permutation([k for k in range(B) if k != i])[:D] for i in range(B)]) for _ in range(2)]
        alone, found = match(nodes, 0 * edges, *near), match(nodes, edges, *near)
        assert sorted(alone) == sorted(found) == list(range(B))
        values = [value_of(np.array(each), nodes, 0 * edges, near) for each in permutations(range(B))]
        best_of_nodes += bool(np.isclose(value_of(alone, nodes, 0 * edges, near), max(values)))
        values = [value_of(np.array(each), nodes, edges, near) for each in permutations(range(B))]
        shares.append([value_of(each, nodes, edges, near) / max(values) for each in (found, alone)])
        # The same graph twice: nodes tell a little, and edges between the same nodes are alike.
        planted = rng.permutation(B)
        near[1] = np.empty_like(near[0])
        near[1][planted] = planted[near[0]]
        alike = np.zeros((B, D, B, D))
        for i in range(B):
            for a in range(D):
                alike[i, a, planted[i], a] = 1.0
        weak = 0.7 * np.eye(B)[planted] + 0.5 * rng.normal(size=(B, B))
        found_by_edges += bool((match(weak, alike, *near) == planted).all())
        found_by_nodes += bool((match(weak, 0 * alike, *near) == planted).all())
    with_edges, without = np.mean(shares, axis=0)
    assert best_of_nodes > 7 and with_edges > max(0.8, without + 0.08), (best_of_nodes, with_edges, without)
    assert found_by_edges > 8 and found_by_nodes < 7


def keep_places(nodes: np.ndarray, edges: np.ndarray, near_one: np.ndarray, near_two: np.ndarray) -> np.ndarray:
    assert nodes.shape == (B, B) and edges.shape == (B, D, B, D) and near_one.shape == near_two.shape == (B, D)
    return np.arange(B)


def test_another_solver_is_named_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvlm.core.config._PERMITTED", {"tests"})
    objective, own = made(solver=f"{__name__}.keep_places", noise=0.3), outputs()
    assert objective.add_up(ALONE, views(), own, {})["matching"].item() == 0
    assert made(noise=0.3).add_up(ALONE, views(), own, {})["matching"].item() > 0


def test_the_loss_is_a_hamming_distance_and_its_gradient_that_of_the_matchings() -> None:
    objective, own = made(noise=0.3, strength=2.0), outputs()
    found = objective.add_up(ALONE, views(), own, {})["matching"]
    config = objective.config
    nodes, near, unit = [], [], torch.nn.functional.normalize
    for v in range(2):
        raw = own["nodes_NVK"][:, v]
        likeness = unit(raw, dim=1) @ unit(raw, dim=1).T
        far = (likeness - 4 * torch.eye(B, dtype=torch.float64)).detach().numpy()
        order = np.argsort(-far, axis=1)[:, :D].tolist()
        near.append(np.array(order))
        messages = torch.stack([own["told_NVK"][order[i], v].mean(0) for i in range(B)])
        nodes.append(unit(raw + messages, dim=1))
    like = torch.stack([
        torch.stack([
            0.8 * nodes[0][i] @ nodes[1][j]
            + 0.2 * (own["parts_NVPK"][i, 0] @ own["parts_NVPK"][j, 1].T).max(1).values.mean()
            for j in range(B)
        ]) for i in range(B)
    ])  # fmt: skip
    edge = [torch.stack([unit(nodes[v][i] - nodes[v][near[v][i]], dim=-1) for i in range(B)]) for v in range(2)]
    edges = torch.einsum("iak,jbk->iajb", *edge)
    noise = 0.3 * lvm_med._draw_gumbel(like, int(views()["seed"].sum()))
    noisy = (like + noise).detach().numpy()
    pair = [match(noisy - shift, edges.detach().numpy(), *near) for shift in (0.0, 2.0 * (1 - 2 * np.eye(B)))]
    distance = 2 * float((pair[0] != np.arange(B)).sum())
    assert found.item() == pytest.approx(distance) and distance > 0
    surrogate: Any = torch.zeros((), dtype=torch.float64)
    for sign, chosen in ((1, pair[0]), (-1, pair[1])):
        surrogate = surrogate + sign * torch.stack([like[i, chosen[i]] for i in range(B)]).sum()
        for i in range(B):
            for a, k in enumerate(near[0][i]):
                for b, other in enumerate(near[1][chosen[i]]):
                    surrogate = surrogate + sign * config.edges * edges[i, a, chosen[i], b] * bool(other == chosen[k])
    leaves = list(own.values())
    mine, theirs = (torch.autograd.grad(each, leaves) for each in (found, surrogate))
    for found_slope, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(found_slope, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("off", [{"edges": 0.0}, {"global": 1.0}, {"strength": 0.01}], ids=lambda off: next(iter(off)))
def test_without_one_of_its_terms_the_gradient_is_another(off: dict[str, float]) -> None:
    own = outputs()
    slopes = [
        torch.autograd.grad(made(**each).add_up(ALONE, views(), own, {})["matching"], own["nodes_NVK"])[0]
        for each in ({"strength": 2.0}, {"strength": 2.0, **off})
    ]
    assert not torch.allclose(slopes[0], slopes[1])


def test_views_that_agree_are_matched() -> None:
    """With the same image twice and no noise, every node is most like itself."""
    torch.manual_seed(0)
    objective = made(noise=0.0)
    own = outputs()
    same = {name: torch.stack([each[:, 0], each[:, 0]], 1) for name, each in own.items()}
    assert objective.add_up(ALONE, views(), same, {})["matching"].item() == 0
