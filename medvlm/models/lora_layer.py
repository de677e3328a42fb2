"""Computes a layer with its adapter in fewer passes over its outputs than peft's layer does.

peft makes B(A(x)), its product with the scale, and the sum with the output of the layer, one after the other: three
tensors as large as the output, and as many again in the backward pass. Here matrix products add to what is there.
Axes: N rows, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F


class LoraLinear(Linear):  # type: ignore[misc]
    """peft's layer, whose plain case, one adapter on a frozen matrix, is computed together with the adapter."""

    joined: torch.Tensor | None = None
    """The sum of the matrix and its adapter, while answers are drawn."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.joined is not None:
            return F.linear(x, self.joined, self.base_layer.bias)
        name, base = self._find_plain(args, kwargs), self.base_layer
        if name is None:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        parts = [base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight]
        weight, bias, low, high = (None if each is None else each.to(dtype) for each in parts)
        x = x.to(dtype)
        dropped = self.lora_dropout[name](x)
        other = None if dropped is x else dropped
        found: torch.Tensor = _Adapted.apply(x, other, weight, bias, low, high, self.scaling[name])
        return found

    def join(self) -> None:
        """Adds the adapter to the matrix once, until `joined` is None again, and not to the outputs of each token. Only
        in float32: in fewer bits, the sum would be another policy than the one that is trained, and a copy of the
        matrices of a large model would not fit."""
        weight = self.base_layer.weight
        is_exact = weight.dtype == torch.float32 and not torch.is_autocast_enabled(weight.device.type)
        if is_exact and not isinstance(weight, DTensor) and (name := self._find_plain((), {})):
            low, high = self.lora_A[name].weight, self.lora_B[name].weight
            self.joined = torch.addmm(weight, high, low, alpha=self.scaling[name])

    def _find_plain(self, args: Any, kwargs: Any) -> str | None:
        """The name of the adapter, or None where peft has to compute: for several adapters, variants such as DoRA, a
        trained matrix, weights that only their own modules can gather (ZeRO-3), and under torch.compile, which joins
        operations by itself."""
        if args or kwargs or self.disable_adapters or self.merged or torch.compiler.is_compiling():
            return None
        active = [name for name in self.active_adapters if name in self.lora_A]
        base = self.base_layer
        if len(active) != 1 or active[0] in self.lora_variant or type(base) is not nn.Linear:
            return None
        weights = [base.weight, self.lora_A[active[0]].weight, self.lora_B[active[0]].weight]
        if any(hasattr(each, "ds_id") for each in weights) or self.lora_B[active[0]].bias is not None:
            return None
        if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
            return None
        alike = {each.dtype for each in weights}
        return active[0] if len(alike) == 1 or torch.is_autocast_enabled(base.weight.device.type) else None


class _Adapted(torch.autograd.Function):
    """x W^T + b + scale (z A^T) B^T, where z is `dropped`, or x without dropout, with the gradients of x, z, A and B
    (LoRA, arXiv 2106.09685, section 4.1)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        low_RI: torch.Tensor,
        high_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        z = x if dropped is None else dropped
        z_NI = z.reshape(-1, z.shape[-1])
        z_NR = z_NI @ low_RI.T
        out = F.linear(x, weight_OI, bias_O)
        out.view(-1, out.shape[-1]).addmm_(z_NR, high_OR.T, alpha=scale)
        ctx.save_for_backward(z_NI, z_NR, weight_OI, low_RI, high_OR)
        ctx.scale, ctx.has_dropout = scale, dropped is not None
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        z_NI, z_NR, weight_OI, low_RI, high_OR = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_NR = (grad_NO @ high_OR).mul_(ctx.scale)
        wants_x, wants_z, _, _, wants_low, wants_high, _ = ctx.needs_input_grad
        for_x = grad_NO @ weight_OI if wants_x else None
        for_z = grad_NR @ low_RI if wants_z else None
        if for_x is not None and not ctx.has_dropout:
            for_x.addmm_(grad_NR, low_RI)
        for_low = grad_NR.T @ z_NI if wants_low else None
        for_high = (grad_NO.T @ z_NR).mul_(ctx.scale) if wants_high else None
        for_x, for_z = (None if each is None else each.view(*grad.shape[:-1], -1) for each in (for_x, for_z))
        return for_x, for_z, None, None, for_low, for_high, None
