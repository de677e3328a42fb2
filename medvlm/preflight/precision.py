"""Training precision on the meta device. torch's autocast does not support it, so its casts are done here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from medvlm.models import head
from medvlm.preflight.ledger import Ledger, find_tensors
from medvlm.train.frozen import hold_in_bfloat16

LOWER: set[Any] = {
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.mm,
    torch.Tensor.mm,
    torch.bmm,
    torch.Tensor.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    F.multi_head_attention_forward,  # as a whole: its inner products are not intercepted
}
"""Computed in bfloat16. Source: torch, aten/src/ATen/autocast_mode.h, AT_FORALL_LOWER_PRECISION_FP."""
FP32: set[Any] = {
    F.layer_norm,
    F.group_norm,
    F.softmax,
    torch.softmax,
    torch.Tensor.softmax,
    F.log_softmax,
    torch.log_softmax,
    F.cross_entropy,
    F.nll_loss,
    F.mse_loss,
    F.binary_cross_entropy_with_logits,
    torch.exp,
    torch.Tensor.exp,
    torch.log,
    torch.Tensor.log,
    torch.rsqrt,
    torch.Tensor.rsqrt,
    torch.pow,
    torch.Tensor.pow,
    torch.Tensor.__pow__,
    torch.logsumexp,
    torch.Tensor.logsumexp,
    F.softplus,
}
"""Computed in float32 (AT_FORALL_FP32 and its neighbours)."""


def wrap_model(kind: str, model: nn.Module, ledger: Ledger) -> Callable[[Any], Any]:
    """The model as the engine calls it, with inputs and outputs in the types of `engine.precision`. Outputs are
    returned in float32 for the loss. The caller converts the weights (convert_weights)."""

    def call(*args: Any) -> Any:
        if kind == "bf16-mixed":
            again = _lower_again(ledger)
            with Autocast(ledger) as cast, ledger.patch_attention(cast.lower), _avoid_fast_attention(), again:
                return _cast_floats(model(*args), torch.float32)
        with ledger.patch_attention():
            out = model(*args)
        return _cast_floats(out, torch.float32) if kind == "bf16-true" else out

    return call


def _lower_again(ledger: Ledger) -> AbstractContextManager[Any]:
    """The head of a language model is computed again in the backward pass, in the types that it had before. Modes are
    not active there by themselves, unlike torch's autocast."""
    again = partial(head.checkpoint, context_fn=lambda: (nullcontext(), Autocast(ledger)))
    return mock.patch.object(head, "checkpoint", again)


@contextmanager
def _avoid_fast_attention() -> Iterator[None]:
    """nn.MultiheadAttention does not use its fused kernel under torch's autocast, of which it cannot know here."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def convert_weights(model: nn.Module, kind: str) -> nn.Module:
    """As the engines do, in place."""
    if kind == "bf16-mixed":
        hold_in_bfloat16(model)
    return model.to(torch.bfloat16) if kind == "bf16-true" else model


COPIES = "copies"
"""Part for the bfloat16 copies of float32 weights."""


class Autocast(TorchFunctionMode):
    """bfloat16 as in torch.autocast("cuda"): trained weights are cast once per pass, frozen weights at every use."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger, self.cast = ledger, dict[int, torch.Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Operations on tensors with data, such as positions, keep their type.
        is_meta = func in LOWER and any(t.is_meta for t in find_tensors((*args, *kwargs.values())))
        if is_meta:
            args, kwargs = tree_map(self.lower, (args, kwargs))
        elif func in FP32:
            args, kwargs = _cast_floats((args, kwargs), torch.float32)
        return func(*args, **kwargs)

    def lower(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
            return x
        if not isinstance(x, nn.Parameter):
            return x.to(torch.bfloat16)
        if id(x) in self.cast:
            return self.cast[id(x)]
        with self.ledger.attribute_to(COPIES):
            made = x.to(torch.bfloat16)
        if x.requires_grad:
            self.cast[id(x)] = made
        return made


def _cast_floats(tree: Any, dtype: torch.dtype) -> Any:
    def cast(x: Any) -> Any:
        return (
            x.to(dtype)
            if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype in (torch.bfloat16, torch.float16)
            else x
        )

    return tree_map(cast, tree)
