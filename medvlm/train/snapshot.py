"""What a rank saves, as it was at one moment: training may go on while it is written."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from medvlm.core.errors import CheckpointError

ALIGNED = 64
"""Bytes that each tensor's copy begins at a multiple of."""


class Room:
    """Memory of the CPU for one copy of the tensors, taken once; where there is a GPU, such that copies from it are
    fast (page-locked)."""

    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)

    def make(self, size: int) -> None:
        if len(self.bytes) == size:
            return
        self.close()
        self.bytes = torch.empty(size, dtype=torch.uint8)
        if torch.cuda.is_available() and size:
            # Not pin_memory=True, which takes the next power of two.
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
    """Decides what this rank has to save, when it is made; `copy` then takes the tensors. Without it they are read when
    they are written.

    tensors: a nested dict, as the engine gives it; sharded tensors count with what this rank holds. first: on the first
    rank."""

    def __init__(self, tensors: dict[str, Any], first: bool):
        super().__init__()
        super().set_up_planner(tensors, None, first)
        self.own = super().create_local_plan()
        self.copies: dict[MetadataIndex, Any] = {}

    @property
    def nbytes(self) -> int:
        return sum(_aligned(size_of(item)) for item in self.own.items)

    def copy(self, room: Room) -> None:
        """Returns when training may change the tensors."""
        room.make(self.nbytes)
        at = 0
        for item in self.own.items:
            data: Any = super().resolve_data(item)
            if item.type != WriteItemType.BYTE_IO:
                source, size = data.detach(), size_of(item)
                data = room.bytes[at : at + size].view(source.dtype).view(source.shape)
                data.copy_(source, non_blocking=True)
                at += _aligned(size)
            self.copies[item.index] = data
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        self.state_dict = {}

    # --- as torch.distributed.checkpoint calls a planner, perhaps from another thread ----------------

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
    """Bytes of a tensor, 0 for what is none."""
    if item.tensor_data is None:
        return 0
    return item.tensor_data.chunk.sizes.numel() * item.tensor_data.properties.dtype.itemsize


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
