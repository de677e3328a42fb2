"""Reads deferred weights (core/deferred.py) straight into the shards of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from medvlm.core.deferred import Source, fill_one, list_deferred, source_of


def name_sources(model: nn.Module) -> dict[str, Source]:
    """Name of a deferred parameter -> where its values are. Sharding replaces the parameters and keeps their names."""
    return {name: source for name, p in model.named_parameters() if (source := source_of(p)) is not None}


def read_shards(model: nn.Module, sources: Mapping[str, Source], device: torch.device) -> None:
    """Replaces sharded parameters without values (FSDP2 along the first axis) by those with this rank's rows. device:
    where the shards are held."""
    made: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if name not in sources:
            continue
        assert isinstance(parameter, DTensor), f"{name} is not sharded"
        mesh, own = parameter.device_mesh, parameter.to_local()
        rows = -(-len(parameter) // mesh.size())  # as torch.chunk divides them
        start = min(mesh.get_local_rank() * rows, len(parameter))
        local = torch.empty(own.shape, dtype=own.dtype, device=device)
        local.copy_(sources[name].read(start, start + len(local)))
        # Not by from_local(), which would move shards that are kept in CPU memory to the GPU.
        spread = DTensor(local, parameter._spec, requires_grad=False)  # type: ignore[call-arg, abstract]
        made[id(parameter)] = nn.Parameter(spread, requires_grad=parameter.requires_grad)
    for module in model.modules():
        for name, own_parameter in module._parameters.items():
            module._parameters[name] = made.get(id(own_parameter), own_parameter)


def read_partitions(
    model: nn.Module, deepspeed: Any, settings: dict[str, Any], device: torch.device, rank: int, world: int
) -> None:
    """Divides deferred parameters for ZeRO-3. Each rank reads its own part of each. settings: those of
    deepspeed.initialize, which divides the other parameters."""

    class Init(deepspeed.zero.Init):  # type: ignore[misc, name-defined]
        """Divides a parameter without sending all of it from the first rank to the others."""

        def _zero_init_param(self, parameter: Any) -> None:
            self._convert_to_deepspeed_param(parameter)
            parameter.partition()

    own = list_deferred(model)
    first: Any = own[0]
    for parameter in own:
        fill_one(parameter, _read_part(parameter, rank, world, device))
        if parameter is first:
            Init(module=nn.ParameterList([first]), config_dict_or_path=settings)
        else:
            first.convert_to_zero_parameters(param_list=[parameter])
    for module in model.modules():  # DeepSpeed moves them only for a model of which nothing is divided yet
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def _read_part(parameter: torch.Tensor, rank: int, world: int, device: torch.device) -> torch.Tensor:
    """A tensor of which the part of this rank has values: the rank-th of equal parts of its numbers (with some at the
    end that are padding), and the rest of the rows in it. The other pages of CPU memory are never touched."""
    source = source_of(parameter)
    assert source is not None
    made = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    if not parameter.ndim:
        return made.copy_(source.read())
    share, in_row = -(-made.numel() // world), made[:1].numel()
    start, stop = rank * share // in_row, min(len(made), -(-(rank + 1) * share // in_row))
    if start < stop:
        made[start:stop].copy_(source.read(start, stop))
    return made
