"""A step on tensors without data: every byte that a GPU would hold, by part, and every floating-point operation.

The real model, loss, backward pass and optimiser run. Floats are on the meta device; token ids and masks are real and
small, so that code that looks at them (positions, placeholders) takes the way it takes in training.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
SELECTING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
LARGE = 1 << 20
"""Results of more elements are not computed, even where all that goes in is there: masks of long rows."""
FEW = 64
"""Numbers that are taken off the GPU at once to be logged; more are pixels."""
ROUND = 512
"""CUDA's allocator rounds up to this many bytes."""


class Ledger(TorchDispatchMode):
    """Adds up storages as they come and go, but for the model's own weights. `peaks`: name of a section -> bytes by
    part at its worst moment; see section()."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        self.now: Counter[str] = Counter()
        self.peaks: dict[str, dict[str, int]] = {}
        self.flops = 0
        self.part = "work"
        self._total = self._peak = 0
        self._section = ""
        self._masks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._owner: dict[int, tuple[str, int]] = {}
        from torch.utils.flop_counter import flop_registry

        self._formulas = flop_registry

    def section(self, name: str) -> None:
        """From here on the peak is that of another section; one that comes again goes on."""
        self._section = name
        self._peak = sum(self.peaks.get(name, {}).values())
        self._note()

    def label(self, tensor: torch.Tensor | None, part: str) -> None:
        """Whose bytes these are: a gradient, a state of the optimiser."""
        if tensor is None or not tensor.is_meta:
            return
        key = tensor.untyped_storage()._cdata
        if key in self._owner:
            before, size = self._owner[key]
            self.now[before] -= size
            self.now[part] += size
            self._owner[key] = (part, size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [*tensors_in(args), *tensors_in(kwargs.values())]
        num_meta = sum(t.is_meta for t in tensors)
        if num_meta and (logged := _logged(func, args, kwargs)) is not None:
            return logged
        if num_meta and (num_meta < len(tensors) or "device" in kwargs or func in SELECTING):
            args, kwargs = _moved(func, args, kwargs)
        elif tensors and not num_meta and _broadcast(tensors) > LARGE:
            args, kwargs = tree_map(_to_meta, (args, kwargs))
        elif tensors and not num_meta and func is aten._to_copy.default and not tensors[0].is_floating_point():
            kwargs = {
                **kwargs,
                "device": tensors[0].device,
            }  # ids and masks stay what they are, wherever a model wants them
        if (
            num_meta
            and func is aten.split_with_sizes.default
            and sum(args[1]) != args[0].shape[args[2] if len(args) > 2 else 0]
        ):
            args = _dealt(*args)
        out = func(*args, **kwargs)
        if formula := self._formulas.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=out)
        for made in tensors_in((out,)):
            if made.is_meta:
                self._take(made)
        return out

    def _take(self, made: torch.Tensor) -> None:
        storage = made.untyped_storage()
        key = storage._cdata
        if key in self._owner or key in self._weights:
            return
        size = -(-storage.nbytes() // ROUND) * ROUND
        self._owner[key] = (self.part, size)
        self.now[self.part] += size
        self._total += size
        weakref.finalize(storage, self._gone, key)
        if self._total > self._peak:
            self._note()

    def _note(self) -> None:
        if self._total >= self._peak:
            self._peak = self._total
            self.peaks[self._section] = {part: size for part, size in self.now.items() if size}

    def _gone(self, key: int) -> None:
        part, size = self._owner.pop(key)
        self.now[part] -= size
        self._total -= size

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What is made inside belongs to `part`."""
        before, self.part = self.part, part
        yield
        self.part = before

    def watch(self, module: nn.Module, part: str) -> list[Any]:
        """What the forward pass of a module makes belongs to `part`. Returns the hooks, to be removed."""
        before: list[str] = []

        def enter(_: Any, __: Any) -> None:
            before.append(self.part)
            self.part = part

        def leave(_: Any, __: Any, ___: Any) -> None:
            self.part = before.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def _once(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """A small mask with values as one without: one and the same for all layers."""
        if mask is None or mask.is_meta:
            return mask
        return self._masks.setdefault(id(mask), (mask, _to_meta(mask)))[1]

    def attention(self, lower: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Any:
        """Attention as a GPU computes it, scores are never stored (FlashAttention, arXiv 2205.14135). lower: the cast
        of autocast."""

        def attend(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: Any = None, *_: Any, **__: Any
        ) -> torch.Tensor:
            given = [lower(_to_meta(x)) if lower else _to_meta(x) for x in (query, key, value)]
            out: torch.Tensor = _Attend.apply(*given, _aligned(self._once(attn_mask), lower), self)
            return out

        return mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attend)


def _aligned(mask: torch.Tensor | None, lower: Callable[[torch.Tensor], torch.Tensor] | None) -> torch.Tensor | None:
    """The mask as the kernels keep it: in the type of the queries, its rows filled up to a multiple of 8; a copy for
    each layer where it is not so already."""
    if mask is None:
        return None
    mask = lower(mask) if lower else mask
    missing = -mask.shape[-1] % 8
    return torch.nn.functional.pad(mask, (0, missing)) if missing else mask


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, ledger: Ledger
    ) -> torch.Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums, mask)
        ctx.ledger, ctx.flops = ledger, _attention_flops(query, key, value)
        ledger.flops += ctx.flops
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        ctx.ledger.flops += ctx.flops * 5 // 2  # scores anew, and four products
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None


def _attention_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    *batch, rows, width = query.shape
    return 2 * int(torch.Size(batch).numel()) * rows * key.shape[-2] * (width + value.shape[-1])


def tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Of an operation's arguments or results, which nest in lists alone: five times faster than torch's own way through
    any tree."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def _logged(func: Any, args: Any, kwargs: Any) -> Any:
    """What takes a number off the GPU, to log it: nothing is known of it, and nothing depends on it."""
    if func is aten._local_scalar_dense.default:
        return False if args[0].dtype == torch.bool else 0.0 if args[0].is_floating_point() else 0
    if func is aten._to_copy.default and str(kwargs.get("device")) == "cpu" and args[0].numel() <= FEW:
        return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    if func is aten.bincount.default:
        return torch.zeros(args[2] if len(args) > 2 else kwargs.get("minlength", 0), dtype=torch.long)
    return None


def _to_meta(x: Any) -> Any:
    return (
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        if isinstance(x, torch.Tensor) and not x.is_meta
        else x
    )


def _moved(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Every argument on the meta device. A mask that selects says how many while it is still known."""
    if func in SELECTING:
        args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    return tree_map(_to_meta, (args, kwargs))


def _places(index: Any) -> tuple[Any, ...]:
    """A mask as the places that it selects: as many as it does, or all of them where that cannot be known."""
    if not isinstance(index, torch.Tensor) or index.dtype != torch.bool:
        return (index,)
    if not index.is_meta:
        return index.nonzero(as_tuple=True)
    return tuple(torch.empty(index.numel(), dtype=torch.long, device="meta") for _ in range(index.ndim))


def _dealt(x: torch.Tensor, sizes: list[int], dim: int = 0) -> tuple[Any, ...]:
    """Parts whose sizes would come from pixels: equal ones, as far as that goes."""
    each, rest = divmod(x.shape[dim], len(sizes))
    return x, [each + (i < rest) for i in range(len(sizes))], dim


def _broadcast(tensors: list[torch.Tensor]) -> int:
    """Elements of what an operation on these gives, as far as broadcasting tells."""
    if len(tensors) == 1:
        return tensors[0].numel()
    try:
        return torch.broadcast_shapes(*(t.shape for t in tensors)).numel()
    except RuntimeError:
        return max(t.numel() for t in tensors)
