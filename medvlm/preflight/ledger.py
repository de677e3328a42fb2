"""Counts memory by part and floating-point operations of a training step on the meta device.

The real model, loss, backward pass and optimizer run. Floats are on the meta device. Token ids and masks are real and
small, so that code that depends on their values (positions, placeholders) takes the same branches as in training.
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

from medvlm.models import kernels
from medvlm.models.row_mask import RowMask

aten = torch.ops.aten
SELECTING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
LARGE = 1 << 20
"""Results with more elements go to the meta device even if all inputs have data, for example masks of long rows."""
FEW = 64
"""A copy to the CPU of at most this many numbers is taken for logging; a larger one for pixels."""
ROUND = 512
"""CUDA's allocator rounds up to this many bytes."""


class Ledger(TorchDispatchMode):
    """Tracks the bytes of all storages except the model's own weights. `peaks`: section -> bytes by part at its peak,
    see start_section."""

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

        self._formulas = {**flop_registry, aten._grouped_mm: _count_grouped_flops}

    def start_section(self, name: str) -> None:
        """Records the following peak under another section. A section that is started again keeps its earlier peak."""
        self._section = name
        self._peak = sum(self.peaks.get(name, {}).values())
        self._note()

    def label(self, tensor: torch.Tensor | None, part: str) -> None:
        """Moves the bytes of a tensor to another part, for example gradients or optimizer states."""
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
        tensors = [*find_tensors(args), *find_tensors(kwargs.values())]
        num_meta = sum(t.is_meta for t in tensors)
        if num_meta and (logged := _fake_logged_value(func, args, kwargs)) is not None:
            return logged
        if num_meta and (num_meta < len(tensors) or "device" in kwargs or func in SELECTING):
            args, kwargs = _move_to_meta(func, args, kwargs)
        elif tensors and not num_meta and _count_elements(tensors) > LARGE:
            args, kwargs = tree_map(_to_meta, (args, kwargs))
        elif tensors and not num_meta and func is aten._to_copy.default and not tensors[0].is_floating_point():
            # Ids and masks keep their data, even if the model moves them to its device.
            kwargs = {**kwargs, "device": tensors[0].device}
        if num_meta and func is aten.split_with_sizes.default:
            x, sizes, dim = (*args, 0)[:3]
            if sum(sizes) != x.shape[dim]:  # the sizes would be computed from pixels
                args = _split_evenly(x, sizes, dim)
        out = _multiply_groups(*args, **kwargs) if func is aten._grouped_mm.default else func(*args, **kwargs)
        if formula := self._formulas.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=out)
        for made in find_tensors((out,)):
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
        weakref.finalize(storage, self._release, key)
        if self._total > self._peak:
            self._note()

    def _note(self) -> None:
        if self._total >= self._peak:
            self._peak = self._total
            self.peaks[self._section] = {part: size for part, size in self.now.items() if size}

    def _release(self, key: int) -> None:
        part, size = self._owner.pop(key)
        self.now[part] -= size
        self._total -= size

    @contextmanager
    def attribute_to(self, part: str) -> Iterator[None]:
        """Counts what is allocated inside as `part`."""
        before, self.part = self.part, part
        yield
        self.part = before

    def watch(self, module: nn.Module, part: str) -> list[Any]:
        """Counts what a module's forward pass allocates as `part`. Returns the hooks, which the caller removes."""
        before: list[str] = []

        def enter(_: Any, __: Any) -> None:
            before.append(self.part)
            self.part = part

        def leave(_: Any, __: Any, ___: Any) -> None:
            self.part = before.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def _share_mask(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """A meta tensor for a mask with data. All layers get the same one, as they share the mask in training."""
        if mask is None or mask.is_meta:
            return mask
        return self._masks.setdefault(id(mask), (mask, _to_meta(mask)))[1]

    @contextmanager
    def patch_attention(self, lower: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Iterator[None]:
        """Replaces attention by one that stores no scores, like FlashAttention on a GPU (arXiv 2205.14135). lower: the
        cast of autocast."""

        def attend(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, share: float
        ) -> torch.Tensor:
            given = [lower(_to_meta(x)) if lower else _to_meta(x) for x in (query, key, value)]
            out: torch.Tensor = _Attend.apply(*given, mask, self, share)
            return out

        def attend_densely(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: Any = None, *_: Any, **__: Any
        ) -> torch.Tensor:
            return attend(query, key, value, _align_mask(self._share_mask(attn_mask), lower), 1.0)

        def attend_in_rows(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: RowMask, *_: Any
        ) -> torch.Tensor:
            return attend(query, key, value, None, rows.share)

        functional = torch.nn.functional
        with (
            mock.patch.object(functional, "scaled_dot_product_attention", attend_densely),
            mock.patch.object(kernels, "compute", attend_in_rows),
        ):
            yield


def _align_mask(mask: torch.Tensor | None, lower: Callable[[torch.Tensor], torch.Tensor] | None) -> torch.Tensor | None:
    """The mask as the kernels store it: in the type of the queries, with rows padded to a multiple of 8. Each layer
    makes its own copy unless the mask already has this form."""
    if mask is None:
        return None
    mask = lower(mask) if lower else mask
    missing = -mask.shape[-1] % 8
    return torch.nn.functional.pad(mask, (0, missing)) if missing else mask


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        ledger: Ledger,
        share: float,
    ) -> torch.Tensor:
        """share: of the pairs of queries and keys that are computed."""
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums, mask)
        ctx.ledger, ctx.flops = ledger, int(share * _count_attention_flops(query, key, value))
        ledger.flops += ctx.flops
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        ctx.ledger.flops += ctx.flops * 5 // 2  # recomputes the scores, then four products; the forward pass has two
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None, None


def _count_attention_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    *batch, rows, width = query.shape
    return 2 * int(torch.Size(batch).numel()) * rows * key.shape[-2] * (width + value.shape[-1])


def _multiply_groups(a: torch.Tensor, b: torch.Tensor, offs: torch.Tensor | None = None, *_: Any, **__: Any) -> Any:
    """The result of a product of groups of rows (experts) on the meta device, where torch refuses float32. offs: where
    groups end, along the axis that a 2D factor is divided in."""
    groups = [len(offs)] if offs is not None and a.ndim == b.ndim == 2 else [len(a)] if a.ndim == b.ndim == 3 else []
    return a.new_empty(*groups, a.shape[-2], b.shape[-1])


def _count_grouped_flops(a: torch.Tensor, b: torch.Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    """Each row is multiplied with the weights of its own group only."""
    groups = len(a) if a.ndim == b.ndim == 3 else 1
    return 2 * groups * a.shape[-2] * a.shape[-1] * b.shape[-1]


def find_tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among an operation's arguments or results. These are nested in lists and tuples only, which is five
    times faster to search than with torch's pytree."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from find_tensors(value)


def _fake_logged_value(func: Any, args: Any, kwargs: Any) -> Any:
    """A made-up value for operations that copy a number to the CPU, which training does only for logging. None for all
    other operations."""
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


def _move_to_meta(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments on the meta device. Masks that select elements are first replaced by indices, so that the number of
    elements is still known."""
    if func in SELECTING:
        args = (args[0], [place for index in args[1] for place in _list_selected(index)], *args[2:])
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    return tree_map(_to_meta, (args, kwargs))


def _list_selected(index: Any) -> tuple[Any, ...]:
    """A mask as the indices of the elements it selects. A mask on the meta device is assumed to select all."""
    if not isinstance(index, torch.Tensor) or index.dtype != torch.bool:
        return (index,)
    if not index.is_meta:
        return index.nonzero(as_tuple=True)
    return tuple(torch.empty(index.numel(), dtype=torch.long, device="meta") for _ in range(index.ndim))


def _split_evenly(x: torch.Tensor, sizes: list[int], dim: int = 0) -> tuple[Any, ...]:
    """Arguments for a split into nearly equal parts, if the real sizes would be computed from pixels."""
    each, rest = divmod(x.shape[dim], len(sizes))
    return x, [each + (i < rest) for i in range(len(sizes))], dim


def _count_elements(tensors: list[torch.Tensor]) -> int:
    """The number of elements of an operation's result, by the rules of broadcasting."""
    if len(tensors) == 1:
        return tensors[0].numel()
    try:
        return torch.broadcast_shapes(*(t.shape for t in tensors)).numel()
    except RuntimeError:
        return max(t.numel() for t in tensors)
