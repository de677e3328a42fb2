"""Muon: the momentum of a hidden layer's matrix is made orthogonal before it is applied; AdamW for everything else.

Small networks that start from nothing need about half the samples with it (docs/benchmarks.md). torch.optim.Muon
computes in bfloat16 on every device, which a CPU without bfloat16 units does ten times slower, and takes no other
parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import pad

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration: singular values end in [0.7, 1.2], which five rounds reach from 1e-3."""
ROUNDS = 5
MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """Groups with `orthogonal: True` are matrices [out, in, ...] and get Muon's update, the others AdamW's.

    Source: Jordan et al., kellerjordan.github.io/posts/muon; updates are scaled by 0.2 sqrt(max(out, in)), so that rate
    and decay mean what they mean for AdamW (Moonlight, arXiv 2502.16982, equation 4).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None, "a loss that is computed again within a step is not supported"
        for group in self.param_groups:
            if group["orthogonal"]:
                self._turn(group)
        return super().step()  # passes over what has no gradient left

    def _turn(self, group: dict[str, Any]) -> None:
        """Matrices of one shape at once: many small products cost more than a large one."""
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(torch.Size((len(parameter), parameter.shape[1:].numel())), []).append(parameter)
        for shape, parameters in by_shape.items():
            for parameter, change in zip(
                parameters,
                _shared(torch.stack([_whole(self._lookahead(p)).flatten(1) for p in parameters])),
                strict=True,
            ):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(
                    _part(change.reshape(parameter.shape), parameter), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5
                )
                parameter.grad = None

    def _lookahead(self, parameter: nn.Parameter) -> torch.Tensor:
        """Nesterov's: the gradient, moved towards the momentum that already holds it."""
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(parameter)}
        state["step"] += 1  # AdamW looks for it in every state that it is given back
        return grad.lerp(state["momentum"].lerp_(grad, 1 - MOMENTUM), MOMENTUM)


def _whole(sharded: torch.Tensor) -> torch.Tensor:
    """Where weights are sharded, a matrix is put together for its turn; momentum stays in parts."""
    return sharded.full_tensor() if isinstance(sharded, DTensor) else sharded


def _part(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return (
        distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
        if isinstance(like, DTensor)
        else whole
    )


def _shared(matrices_NAB: torch.Tensor) -> torch.Tensor:
    """orthogonal() of them all. They are alike on every rank, so each turns its share and hands it to the others."""
    if not dist.is_initialized():
        return orthogonal(matrices_NAB)
    share = -(-len(matrices_NAB) // dist.get_world_size())
    own = matrices_NAB[dist.get_rank() * share :][:share]
    turned = [matrices_NAB.new_empty(share, *matrices_NAB.shape[1:]) for _ in range(dist.get_world_size())]
    dist.all_gather(turned, orthogonal(pad(own, (0, 0, 0, 0, 0, share - len(own)))))
    return torch.cat(turned)[: len(matrices_NAB)]


def orthogonal(matrices_NAB: torch.Tensor) -> torch.Tensor:
    """U V' of each matrix U S V', but for singular values that are only about 1. Float32 on a CPU, bfloat16 elsewhere;
    zeros stay zeros."""
    a, b, c = QUINTIC
    x = matrices_NAB.to(torch.float32 if matrices_NAB.device.type == "cpu" else torch.bfloat16)
    x = x.mT if x.shape[1] > x.shape[2] else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if matrices_NAB.shape[1] > matrices_NAB.shape[2] else x).to(matrices_NAB.dtype)


def hidden_matrices(model: nn.Module) -> Iterable[torch.Tensor]:
    """The weights of linear and convolutional layers, but for those that give words (the output of a language model,
    tied or not)."""
    of_words = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for module in model.modules():
        if (outputs := getattr(module, "get_output_embeddings", None)) and (layer := outputs()) is not None:
            of_words.add(id(layer.weight))
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d))
    return [layer.weight for layer in layers if id(layer.weight) not in of_words]
