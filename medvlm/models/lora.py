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
    # torch's attention reads the weight of its out_proj itself: an adapter there would not be computed, and yet be folded in.
    passed_by = {f"{n}.out_proj" for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.endswith("lm_head") and n not in passed_by]
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
    adapted = _adapted(model)
    with torch.no_grad():
        for layer in adapted.values():
            layer.merge(safe_merge=True)
    _unwrap(model, adapted)
    return len(adapted)


def take_off(model: nn.Module) -> tuple[Any, dict[str, torch.Tensor]]:
    """peft's config of the adapters and their tensors by name, as they were in the model, which is left without them."""
    adapted, tensors = _adapted(model), {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    config = vars(model).get("peft_config", {}).get("default")
    _unwrap(model, adapted)
    return config, tensors


def _adapted(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _unwrap(model: nn.Module, adapted: dict[str, Any]) -> None:
    for name, layer in adapted.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    vars(model).pop("peft_config", None)  # else peft warns of two adapters when others are put on
