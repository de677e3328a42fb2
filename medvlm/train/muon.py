"""Muon: orthogonalizes the momentum of the matrices of hidden layers. Everything else gets AdamW.

Small networks trained from scratch need about half the samples with it (docs/benchmarks.md). torch.optim.Muon is not
used because it computes in bfloat16 on every device, which is ten times slower on a CPU without bfloat16 units, and
because it accepts matrices only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from medvlm.train.exchange import exchange_shares, share_out, unshard_all

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration. Five rounds bring singular values above 1e-3 into [0.7, 1.2]."""
ROUNDS = 5
MOMENTUM = 0.95
AT_ONCE = 1 << 26
"""Numbers of matrices whose momenta are whole at the same time, on every rank."""

Stack = tuple[dict[str, Any], list[nn.Parameter]]
"""A group of parameters, and those of its matrices that have one shape."""


class Muon(torch.optim.AdamW):
    """Groups with `orthogonal: True` hold matrices [out, in, ...] and get Muon updates, other groups AdamW updates.

    Source: Jordan et al., kellerjordan.github.io/posts/muon. Updates are scaled by 0.2 sqrt(max(out, in)), so that
    learning rate and weight decay can be chosen as for AdamW (Moonlight, arXiv 2502.16982, equation 4).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None, "closures are not supported"
        left = _split_by_size(self._stack_matrices())
        if not left:
            super().step()
        while left:
            stacks = left.pop(0)
            # Momenta are gathered when their stack's turn comes: all of a large model do not fit at once.
            whole = iter(unshard_all([self._look_ahead(p) for _, each in stacks for p in each]))
            momenta = [torch.stack([m.flatten(1) for m in islice(whole, len(each))]) for _, each in stacks]
            arrive = orthogonalize_all(momenta)
            for parameter in (p for _, each in stacks for p in each):
                parameter.grad = None
            if not left:
                super().step()  # while the ranks exchange the last ones. It skips matrices, which have no gradient now
            for (group, parameters), changes_NAB in zip(stacks, arrive(), strict=True):
                self._apply(group, parameters, changes_NAB)

    def _stack_matrices(self) -> list[Stack]:
        """The matrices of each group by shape: many small products cost more than a large one."""
        found: list[Stack] = []
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"] if group["orthogonal"] else ():
                if parameter.grad is not None:
                    shape = torch.Size((len(parameter), parameter.shape[1:].numel()))
                    by_shape.setdefault(shape, []).append(parameter)
            found += [(group, parameters) for parameters in by_shape.values()]
        return found

    def _apply(self, group: dict[str, Any], parameters: list[nn.Parameter], changes_NAB: torch.Tensor) -> None:
        longest = max(changes_NAB.shape[1:])
        for parameter, change in zip(parameters, changes_NAB, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(
                _shard_like(change.reshape(parameter.shape), parameter), alpha=-group["lr"] * 0.2 * longest**0.5
            )

    def _look_ahead(self, parameter: nn.Parameter) -> torch.Tensor:
        """Nesterov momentum: the gradient interpolated towards the updated momentum."""
        grad, state = parameter.grad, self.state[parameter]
        assert grad is not None
        if not state:
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(parameter)}
        state["step"] += 1  # AdamW expects it in every state that is loaded
        return grad.lerp(state["momentum"].lerp_(grad, 1 - MOMENTUM), MOMENTUM)


def _shard_like(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return (
        distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
        if isinstance(like, DTensor)
        else whole
    )


def _split_by_size(stacks: list[Stack]) -> list[list[Stack]]:
    """Consecutive stacks of at most AT_ONCE numbers together; a larger stack alone."""
    found: list[list[Stack]] = []
    size = 0
    for group, parameters in stacks:
        own = sum(p.numel() for p in parameters)
        if not found or size + own > AT_ONCE:
            found.append([])
            size = 0
        found[-1].append((group, parameters))
        size += own
    return found


def orthogonalize_all(stacks: Sequence[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """A function that returns orthogonalize() of every stack [N, A, B]. All of them are the same on every rank: each
    rank computes about the same share of the work at once, the results are exchanged in one collective, and the
    function waits for them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        found = [orthogonalize(stack) for stack in stacks]
        return lambda: found
    matrices = [matrix for stack in stacks for matrix in stack]
    owners = share_out([m.numel() * min(m.shape) for m in matrices], dist.get_world_size())
    own: list[torch.Tensor] = []
    first, rank = 0, dist.get_rank()
    for stack in stacks:
        mine = [i for i in range(len(stack)) if owners[first + i] == rank]
        own += orthogonalize(stack if len(mine) == len(stack) else stack[mine]) if mine else ()
        first += len(stack)
    arrive = exchange_shares(own, owners, matrices)

    def wait() -> list[torch.Tensor]:
        everywhere = iter(arrive())
        return [torch.stack(list(islice(everywhere, len(stack)))) for stack in stacks]

    return wait


def orthogonalize(matrices_NAB: torch.Tensor) -> torch.Tensor:
    """Replaces each matrix U S V' by about U V': singular values become roughly 1. Computes in float32 on a CPU, in
    bfloat16 elsewhere. Zeros stay zeros."""
    a, b, c = QUINTIC
    x = matrices_NAB.to(torch.float32 if matrices_NAB.device.type == "cpu" else torch.bfloat16)
    x = x.mT if x.shape[1] > x.shape[2] else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if matrices_NAB.shape[1] > matrices_NAB.shape[2] else x).to(matrices_NAB.dtype)


def find_hidden_matrices(model: nn.Module) -> Iterable[torch.Tensor]:
    """The weights of linear and convolutional layers, except output layers of language models (tied or not)."""
    excluded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for module in model.modules():
        if (outputs := getattr(module, "get_output_embeddings", None)) and (layer := outputs()) is not None:
            excluded.add(id(layer.weight))
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d))
    return [layer.weight for layer in layers if id(layer.weight) not in excluded]
