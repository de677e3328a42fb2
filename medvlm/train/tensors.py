"""What a model and its torch optimiser are in a checkpoint: tensors by parameter name, each lying where and as it lies
in training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
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

Read = Callable[[dict[str, Any]], None]
"""Fills the tensors of a nested dict from a checkpoint, in place."""


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`model` and `optim`, for torch.distributed.checkpoint: references, not copies. Called on every rank."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")  # that one process has no process group is meant
        return {"model": get_model_state_dict(model), "optim": get_optimizer_state_dict(model, optimizer)}


def load_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, read: Read, names: Collection[str]) -> None:
    """Puts a checkpoint back. names: what it holds (`optim.state.PARAMETER.step`, ...). Called on every rank."""
    tensors = tensors_of(model, optimizer)
    # A parameter that never got a gradient (SigLIP's head below a language model) has no optimiser state, and gets none
    # here.
    tensors["optim"]["state"] = {
        name: state for name, state in tensors["optim"]["state"].items() if f"optim.state.{name}.step" in names
    }
    read(tensors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        set_model_state_dict(model, tensors["model"])
        set_optimizer_state_dict(model, optimizer, tensors["optim"], options=StateDictOptions(strict=False))
