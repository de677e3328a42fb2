"""Models whose linear layers have 4 bits (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from medvlm.core.errors import CheckpointError, RecipeError

BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits per weight: 64 weights share a scale of 8 bits, and 256 scales share one of 32 bits."""


def quantization_args(key: str, keep: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of `from_pretrained`: 4-bit NormalFloat with double quantization of the scales. keep: paths of modules
    that keep their precision; by default the head alone. Raises RecipeError naming `key` without bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(f"{key} needs bitsandbytes: pip install 'medvlm[quantized]'")
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=list(keep) or None,
        )
    }


def is_quantized(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit"


def settle(model: Any) -> None:
    """Called once a model of transformers is loaded.

    Stops bitsandbytes from packing the weights anew for CPUs with bfloat16, which rounds their scales: frozen weights
    must not change. Its config says no longer that it has 4 bits, because it is saved without them."""
    for module in model.modules():
        if is_quantized(module):
            module.support_avx512bf16_for_cpu = False
    if quantizer := getattr(model, "hf_quantizer", None):
        quantizer.remove_quantization_config(model)


def drop_states(model: nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint without the scales of 4-bit weights, which bitsandbytes computes when it reads the
    published weights and never takes from a state dict.

    Raises CheckpointError naming `where` if the model was made from other published weights."""
    layers = {f"{name}.weight": module for name, module in model.named_modules() if is_quantized(module)}
    own: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        # Sharding replaces the weight, and leaves its scales with the layer.
        scales: Any = getattr(layer.weight, "quant_state", None) or layer.quant_state
        own |= {f"{name}.{key}": state for key, state in scales.as_dict(packed=True).items()}
    for name in own.keys() & tensors.keys():
        if not torch.equal(own[name].cpu(), tensors[name].cpu()):
            raise CheckpointError(
                f"{where}: {name.partition('.weight.')[0]} was quantized from other weights; put back the published"
                " model that the stage was trained with"
            )
    return {name: tensor for name, tensor in tensors.items() if name not in own}


def quantize_on_meta(model: nn.Module, keep: Collection[nn.Module]) -> None:
    """For a plan: replaces the linear layers on the meta device by layers of the same size in 4 bits. keep: modules
    that keep their precision, with what is in them."""
    kept = {id(inner) for module in keep for inner in module.modules()}
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and id(module) not in kept:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, Linear4bit(module))


class Linear4bit(nn.Linear):
    """A layer of bitsandbytes on the meta device."""

    def __init__(self, base: nn.Linear):
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        packed = torch.empty(round(base.weight.numel() * BITS / 8), dtype=torch.uint8, device="meta")
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Dequantized.apply(x.to(torch.bfloat16), (self.out_features, self.in_features))
        return out.to(x.dtype) if self.bias is None else (out + self.bias).to(x.dtype)


class _Dequantized(torch.autograd.Function):
    """x W', with W computed from its 4 bits for each pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        return x @ x.new_empty(shape).T

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad @ grad.new_empty(ctx.shape), None
