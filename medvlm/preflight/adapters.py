"""LoRA adapters on the meta device, with peft's names and shapes. Importing peft itself takes longer than a plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medvlm.core.lora_config import Lora
from medvlm.core.quantize import is_quantized
from medvlm.models import lora as adapters
from medvlm.models.parts import matches


def has_place(model: nn.Module, lora: Lora) -> bool:
    """Whether a model has modules that adapters of an earlier stage are of."""
    return any(matches(name, target) for name, _ in model.named_parameters() for target in lora.targets)


def attach(model: nn.Module, lora: Lora, seed: int) -> None:
    """Like medvlm.models.lora.attach. Raises RecipeError for a target that matches no linear layer."""
    names = adapters.find_targets(model, lora)
    is_plain = all(
        type(model.get_submodule(name)) is nn.Linear or is_quantized(model.get_submodule(name)) for name in names
    )
    if lora.dora or lora.tokens or not is_plain:  # only peft supports these
        with torch.device("meta"):
            adapters.attach(model, lora, seed)
        return
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    for name in names:
        parent, _, last = name.rpartition(".")
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        setattr(model.get_submodule(parent), last, Adapted(base, lora))
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(id(parameter) in trained or ".lora_" in name)


class Adapted(nn.Module):
    """y = x W' + B(A(dropout(x))) alpha / rank, computed in the same order as in peft."""

    def __init__(self, base: nn.Linear, lora: Lora):
        super().__init__()
        self.base_layer, self.scaling = base, lora.alpha / (lora.rank**0.5 if lora.rslora else lora.rank)
        dtype = base.weight.dtype if base.weight.is_floating_point() else torch.float32
        kind: dict[str, Any] = {"device": "meta", "dtype": dtype}
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(lora.dropout) if lora.dropout else nn.Identity()})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, lora.rank, bias=False, **kind)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(lora.rank, base.out_features, bias=False, **kind)})

    @property
    def weight(self) -> torch.Tensor:
        """As in peft. T5 looks for its dtype."""
        weight: torch.Tensor = self.base_layer.weight
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.base_layer(x)
        low = self.lora_A["default"](self.lora_dropout["default"](x.to(self.lora_A["default"].weight.dtype)))
        return result + self.lora_B["default"](low) * self.scaling
