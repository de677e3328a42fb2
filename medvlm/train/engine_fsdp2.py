"""FSDP2: torch's fully_shard shards weights, gradients and optimizer state over the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from medvlm.core.blocks import find_blocks
from medvlm.train.engine import Engine
from medvlm.train.reading import name_sources, read_shards


class Fsdp2(Engine):
    """The units of sharding are the blocks of every tower and of the language model, and one for the rest (embeddings,
    norms, connectors, heads).

    A unit is gathered when it runs and freed afterwards, except the last one, which stays until the end of the backward
    pass. Gradients are reduced in float32 in every micro-batch, which keeps them sharded.
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
        sources = name_sources(model)
        for _, block in find_blocks(model):
            fully_shard(
                block, mp_policy=MixedPrecisionPolicy(param_dtype=computes, reduce_dtype=torch.float32), **options
            )
        # The outputs are float32, as the losses expect.
        fully_shard(
            model,
            mp_policy=MixedPrecisionPolicy(
                param_dtype=computes, reduce_dtype=torch.float32, output_dtype=torch.float32
            ),
            **options,
        )
        read_shards(model, sources, self.steps_on)
        self._check_sharded(model)

    def setup(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        self.model, self.optimizers = model, optimizers
        # FSDP2 takes the first module that runs for the root. If answers are generated before the first step, that
        # would be a block, so the root is initialized here.
        for each in (model, *self.extra_models.values()):
            each._get_fsdp_state()._lazy_init()
        for each in self.extra_models.values():
            # A root stays gathered after its forward pass, for a backward pass that these models do not have.
            each.set_reshard_after_forward(True, recurse=False)  # type: ignore[operator]
        return model

    def _gather(self, model: nn.Module) -> AbstractContextManager[None]:
        return _gather_all(model, model if model is self.model else None)

    def defer_sync(self, enabled: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        (loss * self.world).backward()

    def _check_sharded(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor) and parameter.device_mesh.size() == self.world, (
                f"{name} is not sharded over {self.world} ranks"
            )


@contextmanager
def _gather_all(model: nn.Module, stays: nn.Module | None) -> Iterator[None]:
    """Keeps all weights gathered. stays: what stays so after a forward pass outside of this context.

    The hooks of FSDP2 gather a unit when it is called, but the number of calls differs between ranks that generate
    answers."""
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not stays, recurse=False)
            unit.reshard()
