"""Weights that stay in their files until they are needed: parameters on the meta device that know where their values
are.

Engines that shard a model have it built this way, so that no process ever holds all of it: each reads the rows of its
own shards. Code that needs values sooner reads them for a while by `present()`, or for good by `fill()`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils import swap_tensors

from medvlm.core.blocks import find_blocks

PIECE_BYTES = 32 << 20
"""Of a tensor that is looked through, this much is in memory at once."""

TABLE_ROWS, SOME_ROWS = 16_384, 512
"""A table of more rows may be read in part, for which these many of its first rows are read."""

_said: ContextVar[list[str] | None] = ContextVar("said", default=None)


class Source:
    """Where the values of a tensor are. prints: their fingerprints that are known, by dtype."""

    reads_rows = True
    """Whether a few rows take less memory to read than all of them."""

    def __init__(self) -> None:
        self.prints: dict[torch.dtype, str] = {}

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """The rows from `start` to `stop` along the first axis, or a scalar, on the CPU. They may be of another float
        type than the parameter, and are not to be written to."""
        raise NotImplementedError


class Held(Source):
    """Values that are in memory."""

    def __init__(self, tensor: torch.Tensor):
        super().__init__()
        self.tensor = tensor

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self.tensor[start:stop] if self.tensor.ndim else self.tensor


class Stored(Source):
    """A tensor of a safetensors file, of which only the rows asked for are read."""

    def __init__(self, file: Path, key: str):
        super().__init__()
        self.file, self.key = file, key

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as file:
            stored = file.get_slice(self.key)
            rows: torch.Tensor = stored[start:stop] if stored.get_shape() else file.get_tensor(self.key)
        return rows


class Grown(Source):
    """A table with more rows than its file has. more: these rows."""

    def __init__(self, base: Source, rows: int, more: torch.Tensor):
        super().__init__()
        self.base, self.rows, self.more, self.reads_rows = base, rows, more, base.reads_rows

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        stop = self.rows + len(self.more) if stop is None else stop
        parts = [self.base.read(start, min(stop, self.rows)).to(self.more.dtype)] if start < self.rows else []
        return torch.cat([*parts, self.more[max(0, start - self.rows) : max(0, stop - self.rows)]])


class Replaced(Source):
    """A table of which some rows have other values. places: sorted."""

    def __init__(self, base: Source, places: torch.Tensor, rows: torch.Tensor):
        super().__init__()
        self.base, self.places, self.rows, self.reads_rows = base, places, rows, base.reads_rows

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        found = self.base.read(start, stop).to(self.rows.dtype, copy=True)
        inside = (self.places >= start) & (self.places < start + len(found))
        found[self.places[inside] - start] = self.rows[inside]
        return found


@contextmanager
def deferring() -> Iterator[list[str]]:
    """Within this context, weights of published files are not read when a model is built. Yields a list, to which is
    added what had to be read all the same, with the reason."""
    said: list[str] = []
    token = _said.set(said)
    try:
        yield said
    finally:
        _said.reset(token)


def is_deferring() -> bool:
    return _said.get() is not None


def note_read(text: str) -> None:
    """Says that something was read within `deferring()`, and why."""
    said = _said.get()
    if said is not None and text not in said:
        said.append(text)


def defer(tensor: Any, source: Source) -> None:
    """tensor: a parameter on the meta device."""
    tensor.source = source


def source_of(tensor: torch.Tensor) -> Source | None:
    """Where the values of a deferred tensor are; None for any other tensor."""
    return getattr(tensor, "source", None)


def list_deferred(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if source_of(parameter) is not None]


def count_held(model: nn.Module, part_of: Callable[[str], str]) -> dict[str, int]:
    """Part -> bytes of its parameters that are in memory. part_of: name of a parameter -> its part."""
    held: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:
            held[part_of(name)] = held.get(part_of(name), 0) + parameter.numel() * parameter.element_size()
    return held


def has_values(model: nn.Module) -> bool:
    """False for a model on the meta device that is only planned with."""
    return all(not parameter.is_meta or source_of(parameter) is not None for parameter in model.parameters())


def locate(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Changes when a tensor is written to, or gets another storage."""
    return tensor.data_ptr(), tensor._version, tensor.shape


def read(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The values of a tensor, deferred or not, on the CPU. dtype: by default its own. Not to be written to."""
    source = source_of(tensor)
    return (tensor.detach().cpu() if source is None else source.read()).to(dtype or tensor.dtype)


def read_pieces(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> Iterator[torch.Tensor]:
    """The same, piece by piece along the first axis."""
    source = source_of(tensor)
    if source is None or not source.reads_rows or not tensor.ndim:
        yield read(tensor, dtype)
        return
    rows = max(1, PIECE_BYTES * len(tensor) // max(1, tensor.numel() * tensor.element_size()))
    for start in range(0, len(tensor), rows):
        yield source.read(start, start + rows).to(dtype or tensor.dtype)


def put(tensor: Any, values: torch.Tensor) -> None:
    """Sets the values of a tensor, which are copied. A deferred one refers to them until it is needed."""
    if source_of(tensor) is None:
        with torch.no_grad():
            tensor.copy_(values if source_of(values) is None else read(values))
    elif values is not tensor:
        assert values.shape == tensor.shape, (values.shape, tensor.shape)
        redefine(tensor, source_of(values) or Held(values.detach()))


def redefine(tensor: Any, source: Source) -> None:
    """Gives a deferred tensor other values than those that it was published with."""
    tensor.source = source
    vars(tensor).pop("published", None)


def fill(module: nn.Module) -> None:
    """Reads what is deferred in a module, for good."""
    for parameter in list_deferred(module):
        fill_one(parameter)


def fill_one(parameter: Any, values: torch.Tensor | None = None) -> None:
    """Replaces a deferred parameter by one in memory. It stays the same object. values: by default those that it refers
    to."""
    made: Any = _make(parameter) if values is None else nn.Parameter(values, requires_grad=parameter.requires_grad)
    if (mark := getattr(parameter, "published", None)) is not None:
        made.published = locate(made) if mark == locate(parameter) else None
    swap_tensors(parameter, made)


def put_off(parameter: Any, source: Source) -> None:
    """Frees the memory of a parameter whose values are at `source` too. It stays the same object."""
    made: Any = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
    defer(made, source)
    swap_tensors(parameter, made)


@contextmanager
def without_values() -> Iterator[None]:
    """Within this context, a parameter loses its values and its memory as soon as a module gets it. Buffers keep
    theirs."""

    def empty(module: nn.Module, name: str, parameter: Any) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None  # as it is
        return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(empty)
    try:
        yield
    finally:
        hook.remove()


def _make(parameter: nn.Parameter) -> nn.Parameter:
    made, source = torch.empty(parameter.shape, dtype=parameter.dtype), source_of(parameter)
    if source is not None:
        made.copy_(source.read())
    return nn.Parameter(made, requires_grad=parameter.requires_grad)


def _make_rows(table: nn.Parameter, words: Collection[int]) -> nn.Parameter:
    made, source = torch.zeros(table.shape, dtype=table.dtype), source_of(table)
    assert source is not None
    for start, stop in ((0, SOME_ROWS), *((word, word + 1) for word in words)):
        made[start:stop] = source.read(start, stop)
    return nn.Parameter(made, requires_grad=table.requires_grad)


@contextmanager
def present(model: nn.Module, words: Collection[int] = ()) -> Iterator[None]:
    """Within this context the model can be called although it has deferred weights: those of a block are read when it
    is called and dropped afterwards, the others are in memory all the time.

    words: if given, only these rows of large tables (embeddings and heads) are read, and some more; others are zero,
    and take no memory."""
    left = {id(parameter): parameter for parameter in list_deferred(model)}
    hooks: list[Any] = []
    try:
        for _, block in find_blocks(model) if left else ():
            own = _Swapped([left.pop(id(p)) for p in block.parameters() if id(p) in left])
            hooks.append(block.register_forward_pre_hook(own.take))
            hooks.append(block.register_forward_hook(own.drop, always_call=True))
        root = _Swapped(list(left.values()), words)
        root.take()
        try:
            yield
        finally:
            root.drop()
    finally:
        for hook in hooks:
            hook.remove()


class _Swapped:
    """Parameters that are replaced by others with values from take() to drop()."""

    def __init__(self, parameters: list[nn.Parameter], words: Collection[int] = ()):
        self.parameters, self.words = parameters, words
        self.others: list[nn.Parameter] = []

    def take(self, *_: Any) -> None:
        self.others = [
            _make_rows(p, self.words) if self.words and p.ndim == 2 and len(p) > TABLE_ROWS else _make(p)
            for p in self.parameters
        ]
        self._swap()

    def drop(self, *_: Any) -> None:
        if self.others:  # a call that failed is dropped once more
            self._swap()
        self.others = []

    def _swap(self) -> None:
        for parameter, other in zip(self.parameters, self.others, strict=True):
            swap_tensors(parameter, other)
