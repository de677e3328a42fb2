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
    model: nn.Module, deepspeed: Any, settings: dict[str, Any], device: torch.device, is_first: bool
) -> None:
    """Reads deferred parameters one by one on the first rank, from which ZeRO-3 sends every rank its part. settings:
    those of deepspeed.initialize, which divides the other parameters."""
    own = list_deferred(model)
    first: Any = own[0]
    for parameter in own:
        fill_one(parameter, values=is_first)
        if parameter is first:
            deepspeed.zero.Init(module=nn.ParameterList([first]), config_dict_or_path=settings)
        else:
            first.convert_to_zero_parameters(param_list=[parameter])
    for module in model.modules():  # DeepSpeed moves them only for a model of which nothing is divided yet
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
