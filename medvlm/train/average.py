"""An average of the trained weights over the steps, which is validated and handed on in their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from medvlm.core.errors import RecipeError

AVERAGE = "ema"
"""The name of the extra model of a stage that holds it, which no stage may give to another one."""


class Average(nn.Module):
    """The trained parameters of a model under the same names, as they are now, and averaged from here on."""

    def __init__(self, model: nn.Module):
        super().__init__()
        made: dict[int, nn.Parameter] = {}  # tied parameters stay tied
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.requires_grad:
                *path, last = name.split(".")
                own = made.setdefault(id(parameter), nn.Parameter(parameter.detach().clone(), requires_grad=False))
                _find_module(self, path).register_parameter(last, own)

    def follow(self, model: nn.Module, decay: float) -> None:
        """Moves the average towards the model: average = decay * average + (1 - decay) * model."""
        now = dict(model.named_parameters())
        for name, mean in self.named_parameters():
            mean.lerp_(now[name], 1 - decay)

    @contextmanager
    def stand_in(self, model: nn.Module) -> Iterator[None]:
        """Within this context the model has the averaged weights."""
        now, held = dict(model.named_parameters()), dict[str, torch.Tensor]()
        with torch.no_grad():
            for name, mean in self.named_parameters():
                held[name] = now[name].clone()
                now[name].copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weights in held.items():
                    now[name].copy_(weights)


def _find_module(root: nn.Module, path: list[str]) -> nn.Module:
    """The module at a path, which is made if there is none."""
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def make_models(stage: Any) -> dict[str, nn.Module]:
    """The extra models of a stage, and the average of its weights if it has one. Raises RecipeError for a stage that
    calls one of its own as the average is called."""
    made: dict[str, nn.Module] = stage.make_extra_models()
    if AVERAGE in made:
        raise RecipeError(
            f"stages.{stage.config.name}: an extra model is called {AVERAGE!r}, as the average of the weights"
        )
    return made if stage.config.ema is None else {**made, AVERAGE: Average(stage.model)}


def find_stored(names: Collection[str], extra_model: str = "") -> dict[str, str]:
    """Tensor of the model -> the tensor of a checkpoint with what the stage hands on: the average where there is one.
    names: of the tensors of the checkpoint. extra_model: instead of the model."""

    def find(prefix: str) -> dict[str, str]:
        return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}

    return find(f"models.{extra_model}.") if extra_model else find("model.") | find(f"models.{AVERAGE}.")
