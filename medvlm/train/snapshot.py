"""A snapshot of the tensors that a rank saves, so that training can continue while they are written."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from medvlm.core.errors import CheckpointError

ALIGNED = 64
"""Alignment of the copies of tensors, in bytes."""


class Room:
    """CPU memory for one copy of the tensors, allocated once. With a GPU it is page-locked, so that copies are fast."""

    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)

    def allocate(self, size: int) -> None:
        if len(self.bytes) == size:
            return
        self.close()
        self.bytes = torch.empty(size, dtype=torch.uint8)
        if torch.cuda.is_available() and size:
            # Not pin_memory=True, which rounds the size up to a power of two.
            failed = int(torch.cuda.cudart().cudaHostRegister(self.bytes.data_ptr(), size, 1))
            if failed:
                raise CheckpointError(
                    f"{size / 1e9:.1f} GB of memory could not be locked for copies of checkpoints (CUDA error"
                    f" {failed}); raise the limit (ulimit -l)"
                )

    def close(self) -> None:
        if torch.cuda.is_available() and len(self.bytes):
            torch.cuda.cudart().cudaHostUnregister(self.bytes.data_ptr())
        self.bytes = torch.empty(0, dtype=torch.uint8)


class Snapshot(DefaultSavePlanner):
    """Decides on creation what this rank saves. `copy` then copies the tensors; without it, they are read when they are
    written.

    tensors: nested dict from engine.collect_tensors(); of sharded tensors this rank saves its shard. first: whether
    this is the first rank."""

    def __init__(self, tensors: dict[str, Any], first: bool):
        super().__init__()
        super().set_up_planner(tensors, None, first)
        self.own = super().create_local_plan()
        self.copies: dict[MetadataIndex, Any] = {}

    @property
    def nbytes(self) -> int:
        return sum(_align(size_of(item)) for item in self.own.items)

    def copy(self, room: Room) -> None:
        """Copies the tensors. When it returns, training may change them."""
        room.allocate(self.nbytes)
        at = 0
        for item in self.own.items:
            data: Any = super().resolve_data(item)
            if item.type != WriteItemType.BYTE_IO:
                source, size = data.detach(), size_of(item)
                data = room.bytes[at : at + size].view(source.dtype).view(source.shape)
                data.copy_(source, non_blocking=True)
                at += _align(size)
            self.copies[item.index] = data
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        self.state_dict = {}

    # --- called by torch.distributed.checkpoint, perhaps from another thread ---------------------------

    def set_up_planner(
        self, state_dict: Any, storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        assert is_coordinator == self.is_coordinator

    def create_local_plan(self) -> SavePlan:
        return self.own

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        found = self.copies.get(write_item.index)
        return super().resolve_data(write_item) if found is None else found


def size_of(item: WriteItem) -> int:
    """Size of a tensor in bytes; 0 for other objects."""
    if item.tensor_data is None:
        return 0
    return item.tensor_data.chunk.sizes.numel() * item.tensor_data.properties.dtype.itemsize


def _align(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
