"""FSDP2: weights, gradients and optimiser state sharded over the ranks, by torch's fully_shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from medvlm.train.blocks import blocks
from medvlm.train.engine import Engine


class Fsdp2(Engine):
    """Units are the blocks of every tower and of the language model, and what is left (embeddings, norms, connectors,
    heads).

    A unit is gathered when it runs and given up after, but for the last, which stays until the backward pass is
    through. Gradients are reduced in every micro-batch, which keeps them sharded, in float32.
    """

    is_sharded = True

    def _place(self, model: nn.Module) -> None:
        if self.config.precision == "bf16-true":
            model.to(torch.bfloat16)
        computes = torch.bfloat16 if self.config.precision == "bf16-mixed" else None
        options: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (self.world,), mesh_dim_names=("data",)),
            "offload_policy": (
                CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if self.config.offload else OffloadPolicy()
            ),
        }
        for _, block in blocks(model):
            fully_shard(
                block, mp_policy=MixedPrecisionPolicy(param_dtype=computes, reduce_dtype=torch.float32), **options
            )
        # What leaves the model is float32, as losses expect.
        fully_shard(
            model,
            mp_policy=MixedPrecisionPolicy(
                param_dtype=computes, reduce_dtype=torch.float32, output_dtype=torch.float32
            ),
            **options,
        )
        self._check_sharded(model)

    def setup(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        self.model, self.optimizers = model, optimizers
        # The first module that runs becomes the root; where answers are drawn before the first step, that would be a
        # block.
        for each in (model, *self.extra_models.values()):
            each._get_fsdp_state()._lazy_init()
        return model

    def unsharded(self, model: nn.Module) -> AbstractContextManager[None]:
        return _gathered(model)

    def unsynchronised(self, enabled: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        (loss * self.world).backward()

    def _check_sharded(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor) and parameter.device_mesh.size() == self.world, (
                f"{name} is not sharded over {self.world} ranks"
            )


@contextmanager
def _gathered(model: nn.Module) -> Iterator[None]:
    """torch's own hooks gather a unit when it is called; answers are drawn by calls that differ from rank to rank, so
    all stays gathered meanwhile."""
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not model, recurse=False)
            unit.reshard()
