"""What a checkpoint's tensors lie in: safetensors files, hashed while they are written, by several threads.

torch.distributed.checkpoint decides which rank writes what; this is the storage behind it. Its own file storage writes
pickles, loses what goes wrong in any but the first of its threads, and unpickles whatever a folder holds when it reads:
here nothing but the classes of torch's own table of contents is unpickled, so that a checkpoint of a stranger runs no
code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from medvlm.core.errors import CheckpointError
from medvlm.train.snapshot import size_of

FILE_BYTES, FILES = 256 << 20, 4
"""A rank writes one file for each 256 MiB at most, and at most this many, each in a thread of its own."""
PIECE_BYTES = 8 << 20
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""Names of safetensors 0.6."""
CONTENTS = {
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
"""What a table of contents is made of, beside torch's dtypes: module -> names."""


class HashingFile:
    """Bytes to a file that is on disk, and their hash known, once it is closed. `print` is what a manifest says of
    it."""

    def __init__(self, path: Path, note: Callable[[int], None] = lambda _: None):
        self.file: IO[bytes] = path.open("xb", buffering=0)
        self.hash, self.bytes, self.note = hashlib.sha256(), 0, note

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            self._put(piece)
            self.hash.update(piece)
            self.note(len(piece))

    def _put(self, piece: memoryview) -> None:
        begun = self.bytes
        while piece:
            written = os.write(self.file.fileno(), piece)
            piece, self.bytes = piece[written:], self.bytes + written
        # On Linux this starts the way to the disk now, or all of it would wait for fsync.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), begun, self.bytes - begun, os.POSIX_FADV_DONTNEED)

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        with self.file:
            if kind is None:
                os.fsync(self.file.fileno())

    @property
    def print(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self.hash.hexdigest()}


class Writer(dcp.FileSystemWriter):
    """Writes this rank's share; `prints` then says size and hash of each of its files. note: is told of every piece
    that is written."""

    def __init__(self, folder: Path, note: Callable[[int], None] = lambda _: None):
        super().__init__(folder)
        self.note = note
        self.prints: dict[str, dict[str, Any]] = {}

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        shares = _shares(plan.items)
        names = [f"{plan.storage_data.prefix}{i}.safetensors" for i in range(len(shares))]
        with ThreadPoolExecutor(max(1, len(shares))) as threads:
            results = [r for share in threads.map(self._write, names, shares, repeat(planner)) for r in share]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def storage_meta(self) -> StorageMeta:
        """Nothing: torch would note the folder's path, which is nobody's business, and a number that differs each
        time."""
        return StorageMeta()

    def _write(self, name: str, items: Sequence[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        held: dict[int, Any] = {
            i: planner.resolve_data(item) for i, item in enumerate(items) if item.type == WriteItemType.BYTE_IO
        }
        header, sizes = _header(items, held)
        results, offset = [], len(header)
        with HashingFile(Path(self.path) / name, self.note) as file:
            file.write(header)
            for i, item in enumerate(items):
                file.write(held[i].getbuffer() if i in held else _bytes(planner.resolve_data(item)))
                results.append(
                    WriteResult(
                        index=item.index, size_in_bytes=sizes[i], storage_data=_StorageInfo(name, offset, sizes[i])
                    )
                )
                offset += sizes[i]
        assert file.bytes == offset, (name, file.bytes, offset)
        self.prints[name] = file.print
        return results


class Reader(dcp.FileSystemReader):
    """Reads what Writer wrote. Raises CheckpointError for a table of contents that holds anything but one."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._contents: Metadata | None = None

    @property
    def stored(self) -> dict[str, Any]:
        """Name -> what is stored under it: TensorStorageMetadata, or bytes."""
        return self.read_metadata().state_dict_metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._contents is None:
            path = Path(self.path) / ".metadata"
            with path.open("rb") as file:
                self._contents = _Vetted(file, path).load()
            self._contents.storage_meta = StorageMeta(load_id=self.load_id)
        return self._contents

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor, put together from what the ranks wrote. Takes the memory of two at most."""
        entry = self.stored[name]
        whole = torch.empty(entry.size, dtype=entry.properties.dtype)
        for chunk in entry.chunks:
            _part(whole, chunk.offsets, chunk.sizes).copy_(self._chunk(MetadataIndex(name, chunk.offsets)))
        return whole

    def pieces(self, name: str) -> Iterator[Any]:
        """The bytes of a tensor, as safetensors has them; of one that a single rank wrote, a few at a time."""
        chunks = self.stored[name].chunks
        if len(chunks) > 1:
            yield _bytes(self.tensor(name))
            return
        file_name, offset, length = _place(self.read_metadata().storage_data[MetadataIndex(name, chunks[0].offsets)])
        with (Path(self.path) / file_name).open("rb") as file:
            file.seek(offset)
            while length:
                if not (piece := file.read(min(length, PIECE_BYTES))):
                    raise CheckpointError(f"{file_name} ends in the middle of {name}")
                length -= len(piece)
                yield piece

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in sorted(plan.items, key=lambda item: _place(self.storage_data[item.storage_index])):
            if item.type == LoadItemType.BYTE_IO:
                name, offset, length = _place(self.storage_data[item.storage_index])
                with (Path(self.path) / name).open("rb") as file:
                    file.seek(offset)
                    data = file.read(length)
                _require_plain(data, item.storage_index.fqn)  # the planner would unpickle anything
                planner.load_bytes(item, io.BytesIO(data))
                continue
            target = planner.resolve_tensor(item).detach()
            target.copy_(_part(self._chunk(item.storage_index), item.storage_offsets, item.lengths))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _chunk(self, index: MetadataIndex) -> torch.Tensor:
        name, offset, length = _place(self.read_metadata().storage_data[index])
        entry = self.stored[index.fqn]
        (sizes,) = (chunk.sizes for chunk in entry.chunks if chunk.offsets == index.offset)
        data = torch.empty(length, dtype=torch.uint8)
        with (Path(self.path) / name).open("rb", buffering=0) as file:
            file.seek(offset)
            view = data.numpy().data
            while view:
                if not (read := file.readinto(view)):
                    raise CheckpointError(f"{name} ends in the middle of {index.fqn}")
                view = view[read:]
        return data.view(entry.properties.dtype).reshape(sizes)


class _Vetted(pickle.Unpickler):
    def __init__(self, file: IO[bytes], path: Path):
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if name in CONTENTS.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise CheckpointError(
            f"{'/'.join(self.path.parts[-3:])} asks for {module}.{name}, which no checkpoint needs: it may be an"
            " attack, and was not read"
        )


def _require_plain(data: bytes, name: str) -> None:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as reason:
        raise CheckpointError(f"{name} is more than a plain value: it may be an attack, and was not read") from reason


def _shares(items: Sequence[WriteItem]) -> list[list[WriteItem]]:
    """One list a file, about equal in bytes. Items that are alike in size keep the order of their names, so that a
    checkpoint is the same bytes each time."""
    ordered = sorted(items, key=lambda item: (-size_of(item), item.index.fqn, tuple(item.index.offset or ())))
    number = max(1, min(FILES, sum(map(size_of, items)) // FILE_BYTES))
    shares: list[list[WriteItem]] = [[] for _ in range(number)]
    filled = [0] * number
    for item in ordered:
        i = filled.index(min(filled))
        shares[i].append(item)
        filled[i] += size_of(item)
    return [share for share in shares if share]


def _header(items: Sequence[WriteItem], held: dict[int, Any]) -> tuple[bytes, list[int]]:
    """The head of a rank's file, and the size of each item. What is no tensor is stored as its bytes."""
    entries, sizes = [], []
    for i, item in enumerate(items):
        if item.tensor_data is None:
            sizes.append(held[i].getbuffer().nbytes)
            entries.append((item.index.fqn, torch.uint8, [sizes[i]], sizes[i]))
        else:
            sizes.append(size_of(item))
            offset, chunk = item.index.offset, item.tensor_data.chunk
            part = f"@{','.join(map(str, offset))}" if offset and any(offset) else ""
            entries.append((item.index.fqn + part, item.tensor_data.properties.dtype, list(chunk.sizes), sizes[i]))
    return header(entries), sizes


def header(entries: Sequence[tuple[str, torch.dtype, list[int], int]], about: dict[str, str] | None = None) -> bytes:
    """The head of a safetensors file: name, dtype, shape and bytes of each tensor, in order. Raises CheckpointError for
    a dtype it has no name for."""
    told: dict[str, Any] = {"__metadata__": about} if about else {}
    at = 0
    for name, dtype, shape, size in entries:
        if dtype not in DTYPES:
            raise CheckpointError(f"{name} is of {dtype}, which a safetensors file cannot hold")
        told[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Any) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _place(info: Any) -> tuple[str, int, int]:
    # A name with a slash would lead out of the checkpoint.
    return Path(info.relative_path).name, info.offset, info.length


def _part(tensor: torch.Tensor, offsets: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    for axis, (start, size) in enumerate(zip(offsets, sizes, strict=True)):
        tensor = tensor.narrow(axis, start, size)
    return tensor
