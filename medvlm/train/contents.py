"""Reads a checkpoint's table of contents, `.metadata`: which tensors it has and where their bytes are.

The table is a pickle of torch. Only torch's own classes are unpickled, so a checkpoint of a stranger cannot run code.
What the table says is compared with itself and with the files, so that it cannot ask for memory that no file fills,
or pass bytes off as another shape."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from medvlm.core.errors import CheckpointError

CLASSES = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
}
"""Classes that a table of contents may hold, besides torch's dtypes: module -> names."""


def read_contents(folder: Path) -> Metadata:
    """Raises CheckpointError for a table that is damaged, holds other classes, or does not fit the files."""
    path = folder / ".metadata"
    shown = "/".join(path.parts[-3:])
    try:
        with path.open("rb") as file:
            contents = _SafeUnpickler(file, shown).load()
        _check(contents, {each.name: each.stat().st_size for each in folder.glob("*.safetensors")})
    except CheckpointError:
        raise
    except Exception as reason:  # unpickling hostile bytes raises anything
        why = str(reason) if isinstance(reason, _Unfit) else f"it cannot be read: {type(reason).__name__}"
        raise CheckpointError(
            f"{shown} does not describe the files beside it ({why}); copy the checkpoint again, or take an earlier one"
        ) from None
    return contents


class _Unfit(Exception):
    pass


def _check(contents: Any, files: dict[str, int]) -> None:
    """Raises _Unfit. files: name -> size in bytes."""
    stored = getattr(contents, "state_dict_metadata", None)
    places = getattr(contents, "storage_data", None)
    if not isinstance(contents, Metadata) or not isinstance(stored, dict) or not isinstance(places, dict):
        raise _Unfit("it is not a table of contents")
    total = 0
    for index, place in places.items():
        if not isinstance(index, MetadataIndex) or not isinstance(place, _StorageInfo):
            raise _Unfit("an entry is not a place in a file")
        name, offset, length = Path(place.relative_path).name, place.offset, place.length
        if not (isinstance(offset, int) and isinstance(length, int) and offset >= 0 and length >= 0):
            raise _Unfit(f"{index.fqn} has no place in a file")
        if offset + length > files.get(name, 0):
            raise _Unfit(f"{index.fqn} is said to end at byte {offset + length} of {name}, which ends before it")
        total += length
    if total > sum(files.values()):
        raise _Unfit("several tensors are said to be in the same bytes")
    for name, entry in stored.items():
        if isinstance(entry, TensorStorageMetadata):
            _check_tensor(name, entry, places)
        elif not isinstance(entry, BytesStorageMetadata) or MetadataIndex(name) not in places:
            raise _Unfit(f"{name} is neither a tensor nor a value")


def _check_tensor(name: Any, entry: TensorStorageMetadata, places: dict[Any, Any]) -> None:
    """The parts of a tensor cover it without gaps and overlaps, and each has as many bytes as its shape needs."""
    dtype, size = entry.properties.dtype, entry.size
    if not isinstance(name, str) or not isinstance(dtype, torch.dtype) or not _is_shape(size):
        raise _Unfit(f"{name} has no type or no shape")
    covered = 0
    for chunk in entry.chunks:
        is_within = isinstance(chunk, ChunkStorageMetadata) and _is_shape(chunk.offsets) and _is_shape(chunk.sizes)
        if not is_within or not len(chunk.offsets) == len(chunk.sizes) == len(size):
            raise _Unfit(f"a part of {name} has another number of axes")
        if any(at + n > whole for at, n, whole in zip(chunk.offsets, chunk.sizes, size, strict=True)):
            raise _Unfit(f"a part of {name} is outside it")
        place = places.get(MetadataIndex(name, chunk.offsets))
        if place is None or place.length != math.prod(chunk.sizes) * dtype.itemsize:
            raise _Unfit(f"{name} has another number of bytes than its shape {list(size)} of {dtype} needs")
        covered += math.prod(chunk.sizes)
    if _have_overlap(entry.chunks, len(size)):
        raise _Unfit(f"two parts of {name} overlap")
    if covered != math.prod(size):
        raise _Unfit(f"the parts of {name} do not cover it")


def _is_shape(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(n, int) and n >= 0 for n in value)


def _have_overlap(chunks: Sequence[ChunkStorageMetadata], num_axes: int) -> bool:
    """Compares each part only with those that reach to its start along the axis that is split most, because a run of
    many ranks has a part for each of them."""
    if num_axes == 0:
        return len(chunks) > 1
    axis = max(range(num_axes), key=lambda each: len({chunk.offsets[each] for chunk in chunks}))
    near: list[ChunkStorageMetadata] = []
    for chunk in sorted(chunks, key=lambda each: each.offsets[axis]):
        near = [other for other in near if other.offsets[axis] + other.sizes[axis] > chunk.offsets[axis]]
        if any(_overlap(chunk, other) for other in near):
            return True
        near.append(chunk)
    return False


def _overlap(a: ChunkStorageMetadata, b: ChunkStorageMetadata) -> bool:
    axes = zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True)
    return all(at < other + m and other < at + n for at, n, other, m in axes)


class _SafeUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], shown: str):
        super().__init__(file)
        self.shown = shown

    def find_class(self, module: str, name: str) -> Any:
        if name in CLASSES.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise CheckpointError(
            f"{self.shown} asks for {module}.{name}, which no checkpoint needs: it may be an attack, and was not read"
        )
