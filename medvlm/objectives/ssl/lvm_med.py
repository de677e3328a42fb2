"""LVM-Med: two views of a batch are two graphs, and the encoder learns to match them (arXiv 2306.11925).

A node is the projected vector of an image, after one layer of messages along the edges to its nearest neighbours. Nodes
are alike by their cosine (`global`) and by the cosines of their parts (`1 - global`), edges by that of the differences
of their nodes (`edges`). The loss is the Hamming distance between the permutation that makes the likeness of nodes and
edges largest and the true one (section 3.2). Its gradient is the difference of that permutation and of the one for
likenesses moved against the loss, both with the same Gumbel noise (implicit maximum likelihood, arXiv 2106.01798).

Deviations: the training code is not public; parts are means of patches on a coarse grid, and each is compared with the
most similar one; the solver is an approximation in torch, graduated assignment, where the paper's is a Lagrangian
decomposition, which `solver` can name. The graph is of the batch of all ranks.

Axes: N samples of this rank, B of all ranks, V = 2 views, P parts, K width of the projector, D neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, normalize

from medvlm.core.contracts import Outputs
from medvlm.core.imports import import_path, require_path
from medvlm.objectives.ssl._base import Moment, Objective, SslLoss, Tensors, encode, widen
from medvlm.objectives.ssl._views import Changes, Cropped, make_view

if TYPE_CHECKING:
    from numpy.random import Generator

VIEWS = 2
SHARPNESS, STEPS, BALANCES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0), 3, 20
"""Of the solver: what gains are multiplied by, the steps at each, and rounds of balancing rows and columns."""
LOSS = "matching"


class Config(Cropped, SslLoss):
    joins_samples: ClassVar[bool] = True
    kind: Literal["lvm_med"]
    changes: Changes = Changes(gain=0.4, brightness=0.4, blur=0.5)
    width: int = Field(256, gt=1)
    """Width of the projector."""
    hidden: int = Field(2048, gt=0)
    global_: float = Field(0.8, alias="global", ge=0, le=1)
    """Share of the whole images in the likeness of two nodes; the rest is that of their parts."""
    edges: float = Field(1.0, ge=0)
    """Weight of the likeness of edges. 0: nodes alone are matched."""
    neighbours: int = Field(5, gt=0)
    """Edges of each node."""
    parts: int = Field(4, gt=0)
    """Parts of an image along each axis."""
    noise: float = Field(0.1, ge=0)
    """Scale of the Gumbel noise on the likeness of nodes."""
    strength: float = Field(1.0, gt=0)
    """How far the likeness of nodes is moved for the gradient."""
    solver: str = ""
    """PACKAGE.MODULE.NAME of a function (nodes [B, B], edges [B, D, B, D], neighbours of one graph [B, D], and of the
    other) -> the match of each node [B]; numpy arrays, likenesses to make large. `plugins` has the package."""

    @field_validator("solver")
    @classmethod
    def _is_a_path(cls, solver: str) -> str:
        return require_path(solver) if solver else solver

    def scale_down(self) -> Self:
        # A few images are matched rightly from the start, or moved to no other match, and either teaches nothing.
        small = {"width": 16, "hidden": 32, "parts": min(self.parts, 2)}
        return self.model_copy(update={**small, "noise": 10.0, "strength": 100.0})


def build(config: Config, encoder: Any) -> LvmMed:
    return LvmMed(config, encoder)


class LvmMed(Objective):
    def __init__(self, config: Config, encoder: Any):
        super().__init__()
        self.config, self.size = config, tuple(encoder.input_shape[1:])
        self.project, self.project_parts = (
            nn.Sequential(nn.Linear(encoder.width, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.width))
            for _ in range(2)
        )
        self.near = nn.Linear(config.width, config.width, bias=False)
        self.solve = import_path(config.solver, "loss.solver") if config.solver else None

    def draw(self, pixels: torch.Tensor, rng: Generator) -> dict[str, torch.Tensor]:
        views = [make_view(pixels, self.size, self.config.crop, self.config.changes, rng) for _ in range(VIEWS)]
        return {"views": torch.stack(views), "seed": torch.tensor(int(rng.integers(2**31)))}

    def forward(self, encoder: nn.Module, views: Tensors, own: Outputs | None = None) -> Outputs:
        """`nodes_NVK` before messages, the messages that they send `told_NVK`, and unit vectors of parts
        `parts_NVPK`."""
        seen = encode(encoder, views["views"].flatten(0, 1))
        maps = seen.patches.transpose(1, 2).unflatten(2, seen.grid)
        pool: Any = adaptive_avg_pool2d if len(seen.grid) == 2 else adaptive_avg_pool3d
        sides = tuple(min(side, self.config.parts) for side in seen.grid)
        parts = pool(maps, sides).flatten(2).transpose(1, 2).to(self.near.weight.dtype)
        pooled = seen.pooled.unflatten(0, (-1, VIEWS))
        nodes = self.project(pooled.to(self.near.weight.dtype))
        return {
            "pooled_NE": pooled[:, 0],
            "nodes_NVK": nodes,
            "told_NVK": self.near(nodes),
            "parts_NVPK": normalize(self.project_parts(parts), dim=-1).unflatten(0, (-1, VIEWS)),
        }

    def weigh(self, views: Tensors) -> dict[str, float]:
        return {LOSS: float(len(views["views"]))}

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        config = self.config
        nodes_BVK, told_BVK = (moment.gather_one(widen(own[name])) for name in ("nodes_NVK", "told_NVK"))
        seeds = moment.gather_one(views["seed"][:, None].to(nodes_BVK.device))
        graphs = [_make_graph(nodes_BVK[:, v], told_BVK[:, v], config.neighbours) for v in range(VIEWS)]
        (one_BK, near_one), (two_BK, near_two) = graphs
        nodes_BB = config.global_ * one_BK @ two_BK.T
        if config.global_ < 1:
            parts = moment.gather_one(widen(own["parts_NVPK"]))
            nodes_BB = nodes_BB + (1 - config.global_) * _compare_parts(parts[:, 0], parts[:, 1])
        edges = config.edges * _compare_edges(one_BK, near_one, two_BK, near_two)
        if nodes_BB.is_meta:  # a plan has no values
            return {LOSS: (nodes_BB.sum() + edges.sum()) * len(own["nodes_NVK"])}
        with torch.no_grad():
            noise_BB = config.noise * _draw_gumbel(nodes_BB, int(seeds.sum()))
            found, better = self._solve_twice(nodes_BB + noise_BB, edges, near_one, near_two)
            truth_BB = torch.eye(len(nodes_BB), device=nodes_BB.device, dtype=nodes_BB.dtype)
            distance = (found - truth_BB).abs().sum() / len(nodes_BB)
            slope_nodes = found - better
            slope_edges = _mark_edges(found, near_one, near_two) - _mark_edges(better, near_one, near_two)
        # Its value is the distance, its gradient that of the likenesses.
        moved = ((slope_nodes * nodes_BB).sum() + (slope_edges * edges).sum()) / len(nodes_BB)
        # Every rank has the distance of the whole batch; as a sum, it counts once for each of its samples.
        return {LOSS: (distance + moved - moved.detach()) * len(own["nodes_NVK"])}

    def _solve_twice(
        self, nodes_BB: torch.Tensor, edges: torch.Tensor, near_one: torch.Tensor, near_two: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The permutations for these likenesses, and for those moved against the loss, as matrices [B, B]."""
        count = len(nodes_BB)
        towards = nodes_BB - self.config.strength * (1 - 2 * torch.eye(count, device=nodes_BB.device))
        eye = torch.eye(count, device=nodes_BB.device, dtype=nodes_BB.dtype)
        first, second = (eye[self._solve_once(each, edges, near_one, near_two)] for each in (nodes_BB, towards))
        return first, second

    def _solve_once(self, nodes_BB: torch.Tensor, edges: torch.Tensor, *near: torch.Tensor) -> torch.Tensor:
        if self.solve is None:
            return match(nodes_BB.double(), edges.double(), *near)
        given = [each.double().cpu().numpy() for each in (nodes_BB, edges)] + [each.cpu().numpy() for each in near]
        return torch.from_numpy(np.asarray(self.solve(*given))).to(nodes_BB.device)


def match(nodes_BB: torch.Tensor, edges: torch.Tensor, near_one: torch.Tensor, near_two: torch.Tensor) -> torch.Tensor:
    """The match of each node [B], by graduated assignment (Gold and Rangarajan, IEEE TPAMI 18(4), 1996, 377-388): a
    doubly stochastic matrix follows the gains that it gives itself by nodes and edges, ever more sharply. It is
    rounded at each sharpness, and the best of these is returned."""
    eye = torch.eye(len(nodes_BB), device=nodes_BB.device, dtype=nodes_BB.dtype)
    soft_BB = _balance(SHARPNESS[0] * nodes_BB)
    found, values = [], []
    for sharpness in SHARPNESS:
        for _ in range(STEPS):
            soft_BB = _balance(sharpness * (nodes_BB + 2 * _add_up_edges(soft_BB, edges, near_one, near_two)))
        found.append(_round_off(soft_BB))
        chosen_BB = eye[found[-1]]
        values.append((chosen_BB * (nodes_BB + _add_up_edges(chosen_BB, edges, near_one, near_two))).sum())
    best: torch.Tensor = torch.stack(found)[torch.stack(values).argmax()]
    return best


def _add_up_edges(
    chosen_BB: torch.Tensor, edges: torch.Tensor, near_one: torch.Tensor, near_two: torch.Tensor
) -> torch.Tensor:
    """[B, B]: what each match of two nodes adds by edges, if the other ends are matched like this."""
    return (edges * chosen_BB[near_one[:, :, None, None], near_two[None, None]]).sum((1, 3))


def _balance(logits_BB: torch.Tensor) -> torch.Tensor:
    """Rows and columns that add up to 1 (Sinkhorn)."""
    for _ in range(BALANCES):
        logits_BB = logits_BB - logits_BB.logsumexp(1, keepdim=True)
        logits_BB = logits_BB - logits_BB.logsumexp(0, keepdim=True)
    return logits_BB.exp()


def _round_off(soft_BB: torch.Tensor) -> torch.Tensor:
    """A permutation [B]: pairs of which each is the best of the other, again and again among those that are left."""
    rows = torch.arange(len(soft_BB), device=soft_BB.device)
    found = torch.full_like(rows, -1)
    while bool((found < 0).any()):
        best = soft_BB.argmax(1)
        agrees = (soft_BB.argmax(0)[best] == rows) & (found < 0)
        found = torch.where(agrees, best, found)
        soft_BB = soft_BB.masked_fill(agrees[:, None], -1.0).index_fill(1, best[agrees], -1.0)
    return found


def _make_graph(nodes_BK: torch.Tensor, told_BK: torch.Tensor, neighbours: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of the nodes after messages [B, K], and the neighbours of each [B, D]."""
    unit_BK = normalize(nodes_BK, dim=1)
    likeness_BB = (unit_BK @ unit_BK.T).detach()
    likeness_BB = likeness_BB - 4 * torch.eye(len(unit_BK), device=unit_BK.device, dtype=unit_BK.dtype)
    near_BD = likeness_BB.topk(min(neighbours, len(unit_BK) - 1), dim=1).indices
    return normalize(nodes_BK + told_BK[near_BD].mean(1), dim=1), near_BD


def _compare_parts(one_BPK: torch.Tensor, two_BPK: torch.Tensor) -> torch.Tensor:
    """[B, B]: the mean over the parts of one of the cosine with the most similar part of the other."""
    rows = [torch.einsum("pk,bqk->bpq", one_PK, two_BPK).amax(-1).mean(-1) for one_PK in one_BPK]
    return torch.stack(rows)


def _compare_edges(
    one_BK: torch.Tensor, near_one: torch.Tensor, two_BK: torch.Tensor, near_two: torch.Tensor
) -> torch.Tensor:
    """Cosines of all edges of one graph with all of the other [B, D, B, D]."""
    first = normalize(one_BK[:, None] - one_BK[near_one], dim=-1)
    second = normalize(two_BK[:, None] - two_BK[near_two], dim=-1)
    return torch.einsum("idk,jek->idje", first, second)


def _mark_edges(chosen_BB: torch.Tensor, near_one: torch.Tensor, near_two: torch.Tensor) -> torch.Tensor:
    """1 where both ends of two edges are matched [B, D, B, D]."""
    ends = chosen_BB[near_one[:, :, None, None], near_two[None, None]]
    return chosen_BB[:, None, :, None] * ends


def _draw_gumbel(like: torch.Tensor, seed: int) -> torch.Tensor:
    uniform = np.random.default_rng(seed).uniform(1e-12, 1.0, tuple(like.shape))
    return torch.from_numpy(-np.log(-np.log(uniform))).to(like)
