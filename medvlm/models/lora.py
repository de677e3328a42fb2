"""Low-rank adapters through peft: put in, described, folded into the base weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medvlm.core.contracts import Lora
from medvlm.core.errors import RecipeError
from medvlm.models.parts import matches, seeded


def targets(model: nn.Module, lora: Lora) -> list[str]:
    """Linear layers that get an adapter, by full path: the same names stand in the towers too.

    Raises RecipeError for a target that matches no linear layer.
    """
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.endswith("lm_head")]
    for pattern in lora.targets:
        if not any(matches(name, pattern) for name in linear):
            raise RecipeError(f"lora.targets: {pattern!r} matches no linear layer of this model")
    return [name for name in linear if any(matches(name, pattern) for pattern in lora.targets)]


def attach(model: nn.Module, lora: Lora, seed: int) -> None:
    """B starts at zero, so the model computes what it did before (LoRA, arXiv 2106.09685, section 4.1)."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets(model, lora))
    trained = {n: p.requires_grad for n, p in model.named_parameters()}
    seeded(seed, "lora", lambda: inject_adapter_in_model(config, model))  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained.get(name, ".lora_" in name))


def merge(model: nn.Module) -> int:
    """Folds every adapter into its layer, in the layer's own precision; returns how many there were."""
    from peft.tuners.lora import LoraLayer

    adapted = [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]
    for name, layer in adapted:
        wrapped: Any = layer
        with torch.no_grad():
            wrapped.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, wrapped.get_base_layer())
    vars(model).pop("peft_config", None)  # else peft warns of two adapters when others are put on
    return len(adapted)
