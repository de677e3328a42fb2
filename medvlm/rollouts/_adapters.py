"""The adapters of a model in training, as a folder in peft's form that engines load."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from medvlm.core.errors import RecipeError

MARK = ".lora_"


def find_adapters(
    model: Any, unshard: Callable[[torch.Tensor], torch.Tensor], rename: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Name, as the class of the base has it -> tensor on the CPU. unshard: the whole of a parameter, on every rank.
    rename: beginnings of names -> others.

    Raises RecipeError if other parameters are trained too, which cannot be handed over."""
    stock = getattr(model, "stock", None)
    names = {id(p): name for name, p in (stock if stock is not None else model).named_parameters()}
    found, others = {}, []
    for own, parameter in model.named_parameters():
        if MARK in own:
            found[_rename(names[id(parameter)], rename)] = unshard(parameter).detach().cpu()
        elif parameter.requires_grad:
            others.append(own)
    if others or not found:
        what = f"{others[0]} is trained too" if others else "it has none"
        raise RecipeError(f"rollouts: only adapters are handed to the server, and {what}; let the stage train `lora`")
    return found


def write_adapters(adapters: Mapping[str, torch.Tensor], model: Any, base: str, folder: Path) -> Path:
    """adapter_config.json and adapter_model.safetensors. model: with peft's config of its adapters. base: its name."""
    own = vars(model)["peft_config"]["default"]
    layers = sorted({name.partition(MARK)[0] for name in adapters})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": own.r,
        "lora_alpha": own.lora_alpha,
        "lora_dropout": 0.0,
        "use_rslora": own.use_rslora,
        "use_dora": own.use_dora,
        "bias": "none",
        "inference_mode": True,
        "target_modules": layers,
    }
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name.replace('.default', '')}": t.contiguous() for name, t in adapters.items()}
    save_file(named, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
    return folder


def _rename(name: str, rename: Mapping[str, str]) -> str:
    for begins, other in rename.items():
        if name.startswith(begins):
            return other + name.removeprefix(begins)
    return name
