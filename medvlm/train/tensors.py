"""State dicts of models and optimizers for checkpoints, by parameter name. Tensors stay on their device and sharded.

`model.PARAMETER` and `models.NAME.PARAMETER`; `optim.state.PARAMETER.*` of the default optimizer, and
`optim.NAME.state.PARAMETER.*` of another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from medvlm.core.quantize import drop_states

Read = Callable[[dict[str, Any]], None]
"""Fills the tensors of a nested dict from a checkpoint, in place."""
Models = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]
NONE: Models = {}


def shape_of(tensor: torch.Tensor) -> torch.Size:
    """The shape of a whole tensor. One that ZeRO-3 has divided shows an empty part of itself."""
    shape: torch.Size = getattr(tensor, "ds_shape", tensor.shape)
    return shape


def tensors_of(
    model: nn.Module, optimizers: Optimizers, extra_models: Models = NONE, without: Collection[str] = ()
) -> dict[str, Any]:
    """For torch.distributed.checkpoint: references, not copies. without: tensors of the model that are left out. Called
    on every rank."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")  # having no process group is intended
        states = {name: get_optimizer_state_dict(model, optimizer) for name, optimizer in optimizers.items()}
        own = {name: tensor for name, tensor in get_model_state_dict(model).items() if name not in without}
        tensors: dict[str, Any] = {"model": own, "optim": {**states.pop("", {}), **states}}
        if extra_models:
            tensors["models"] = {name: get_model_state_dict(extra) for name, extra in extra_models.items()}
    return tensors


def load_tensors(
    model: nn.Module,
    optimizers: Optimizers,
    read: Read,
    names: Collection[str],
    extra_models: Models = NONE,
    without: Collection[str] = (),
) -> None:
    """Loads a checkpoint. names: of its tensors (`optim.state.PARAMETER.step`, ...). without: tensors of the model that
    it does not hold. Called on every rank."""
    tensors = tensors_of(model, optimizers, extra_models, without)
    for name in optimizers:
        own, prefix = _find_optimizer(tensors, name)
        # A parameter that never got a gradient (SigLIP's head below a language model) has no optimizer state.
        own["state"] = {n: state for n, state in own["state"].items() if f"{prefix}.state.{n}.step" in names}
    read(tensors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        weights: Any = drop_states(model, tensors["model"], "the checkpoint")
        set_model_state_dict(model, weights, options=StateDictOptions(strict=not without))
        for name, extra in extra_models.items():
            set_model_state_dict(extra, tensors["models"][name])
        for name, optimizer in optimizers.items():
            own, _ = _find_optimizer(tensors, name)
            own = {key: own[key] for key in ("state", "param_groups")}
            set_optimizer_state_dict(model, optimizer, own, options=StateDictOptions(strict=False))


def _find_optimizer(tensors: Mapping[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The part of an optimizer in the tensors, and the prefix of its names in a checkpoint."""
    return (tensors["optim"][name], f"optim.{name}") if name else (tensors["optim"], "optim")
