"""Stores the tensors of a checkpoint in safetensors files, hashed while several threads write them.

This is the storage layer of torch.distributed.checkpoint, which decides which rank writes what. Its own file storage
writes pickles, loses errors in all threads but the first, and unpickles anything that a folder holds (see
contents.py)."""

from __future__ import annotations

import hashlib
import io
import json
import os
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

from medvlm.core.deferred import Source, defer, is_deferring
from medvlm.core.errors import CheckpointError
from medvlm.train.contents import read_contents
from medvlm.train.snapshot import size_of

FILE_BYTES, FILES = 256 << 20, 4
"""A rank writes one file per 256 MiB, but at most FILES, each in its own thread."""
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


class HashingFile:
    """A file that is hashed while it is written, and synced to disk when it is closed. `fingerprint` is its entry in
    the manifest."""

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
        start = self.bytes
        while piece:
            written = os.write(self.file.fileno(), piece)
            piece, self.bytes = piece[written:], self.bytes + written
        # On Linux this starts writing to disk now, so that fsync has less to wait for.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), start, self.bytes - start, os.POSIX_FADV_DONTNEED)

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        with self.file:
            if kind is None:
                os.fsync(self.file.fileno())

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self.hash.hexdigest()}


class TensorWriter(dcp.FileSystemWriter):
    """Writes this rank's share. `fingerprints` then holds size and hash of each file. note: called with the number of
    bytes after each write."""

    def __init__(self, folder: Path, note: Callable[[int], None] = lambda _: None):
        super().__init__(folder)
        self.note = note
        self.fingerprints: dict[str, dict[str, Any]] = {}

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        shares = _split_into_files(plan.items)
        names = [f"{plan.storage_data.prefix}{i}.safetensors" for i in range(len(shares))]
        with ThreadPoolExecutor(max(1, len(shares))) as threads:
            results = [r for share in threads.map(self._write, names, shares, repeat(planner)) for r in share]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def storage_meta(self) -> StorageMeta:
        """Empty: torch would store the local path of the folder, and a number that differs each time."""
        return StorageMeta()

    def _write(self, name: str, items: Sequence[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        held: dict[int, Any] = {
            i: planner.resolve_data(item) for i, item in enumerate(items) if item.type == WriteItemType.BYTE_IO
        }
        header, sizes = _make_file_header(items, held)
        results, offset = [], len(header)
        with HashingFile(Path(self.path) / name, self.note) as file:
            file.write(header)
            for i, item in enumerate(items):
                file.write(held[i].getbuffer() if i in held else _to_bytes(planner.resolve_data(item)))
                results.append(
                    WriteResult(
                        index=item.index, size_in_bytes=sizes[i], storage_data=_StorageInfo(name, offset, sizes[i])
                    )
                )
                offset += sizes[i]
        assert file.bytes == offset, (name, file.bytes, offset)
        self.fingerprints[name] = file.fingerprint
        return results


class TensorReader(dcp.FileSystemReader):
    """Reads what TensorWriter wrote. Raises CheckpointError for a table of contents that does not fit the files."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._contents: Metadata | None = None

    @property
    def stored(self) -> dict[str, Any]:
        """Name -> metadata of what is stored under it (TensorStorageMetadata, or BytesStorageMetadata)."""
        return self.read_metadata().state_dict_metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._contents is None:
            self._contents = read_contents(Path(self.path))
            self._contents.storage_meta = StorageMeta(load_id=self.load_id)
        return self._contents

    def read_tensor(self, name: str) -> torch.Tensor:
        """A full tensor, assembled from the parts that the ranks wrote. Takes at most twice its memory."""
        entry = self.stored[name]
        whole = torch.empty(entry.size, dtype=entry.properties.dtype)
        for chunk in entry.chunks:
            _narrow(whole, chunk.offsets, chunk.sizes).copy_(self._read_chunk(MetadataIndex(name, chunk.offsets)))
        return whole

    def open_tensor(self, name: str) -> torch.Tensor:
        """A full tensor on the CPU. Within core.deferred.deferring(), one whose values stay in the checkpoint."""
        return _defer(self, name) if is_deferring() else self.read_tensor(name)

    def read_pieces(self, name: str) -> Iterator[Any]:
        """The bytes of a tensor in the layout of safetensors, in small pieces if a single rank wrote it."""
        chunks = self.stored[name].chunks
        if len(chunks) > 1:
            yield _to_bytes(self.read_tensor(name))
            return
        file_name, offset, length = _locate(self.read_metadata().storage_data[MetadataIndex(name, chunks[0].offsets)])
        with (Path(self.path) / file_name).open("rb") as file:
            file.seek(offset)
            while length:
                if not (piece := file.read(min(length, PIECE_BYTES))):
                    raise CheckpointError(f"{file_name} ends in the middle of {name}")
                length -= len(piece)
                yield piece

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in sorted(plan.items, key=lambda item: _locate(self.storage_data[item.storage_index])):
            if item.type == LoadItemType.BYTE_IO:
                name, offset, length = _locate(self.storage_data[item.storage_index])
                with (Path(self.path) / name).open("rb") as file:
                    file.seek(offset)
                    data = file.read(length)
                _require_plain(data, item.storage_index.fqn)  # the planner would unpickle anything
                planner.load_bytes(item, io.BytesIO(data))
                continue
            target = planner.resolve_tensor(item).detach()
            target.copy_(_narrow(self._read_chunk(item.storage_index), item.storage_offsets, item.lengths))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read_chunk(self, index: MetadataIndex) -> torch.Tensor:
        name, offset, length = _locate(self.read_metadata().storage_data[index])
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


class _Saved(Source):
    """A tensor of a checkpoint."""

    reads_rows = False

    def __init__(self, reader: TensorReader, name: str):
        super().__init__()
        self.reader, self.name = reader, name

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        whole = self.reader.read_tensor(self.name)
        return whole[start:stop] if whole.ndim else whole


def _defer(reader: TensorReader, name: str) -> torch.Tensor:
    entry = reader.stored[name]
    empty = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
    defer(empty, _Saved(reader, name))
    return empty


def _require_plain(data: bytes, name: str) -> None:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as reason:  # torch raises anything on hostile bytes
        raise CheckpointError(f"{name} is more than a plain value: it may be an attack, and was not read") from reason


def _split_into_files(items: Sequence[WriteItem]) -> list[list[WriteItem]]:
    """One list per file, about equal in bytes. Items of equal size are ordered by name, so that the same checkpoint
    always has the same bytes."""
    ordered = sorted(items, key=lambda item: (-size_of(item), item.index.fqn, tuple(item.index.offset or ())))
    number = max(1, min(FILES, sum(map(size_of, items)) // FILE_BYTES))
    shares: list[list[WriteItem]] = [[] for _ in range(number)]
    filled = [0] * number
    for item in ordered:
        i = filled.index(min(filled))
        shares[i].append(item)
        filled[i] += size_of(item)
    return [share for share in shares if share]


def _make_file_header(items: Sequence[WriteItem], held: dict[int, Any]) -> tuple[bytes, list[int]]:
    """The header of a rank's file, and the size of each item. Other objects than tensors are stored as uint8."""
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
    return make_header(entries), sizes


def make_header(
    entries: Sequence[tuple[str, torch.dtype, list[int], int]], about: dict[str, str] | None = None
) -> bytes:
    """The header of a safetensors file. entries: name, dtype, shape and size in bytes of each tensor, in order. Raises
    CheckpointError for a dtype that safetensors does not have."""
    fields: dict[str, Any] = {"__metadata__": about} if about else {}
    at = 0
    for name, dtype, shape, size in entries:
        if dtype not in DTYPES:
            raise CheckpointError(f"{name} is of {dtype}, which a safetensors file cannot hold")
        fields[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _to_bytes(tensor: Any) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _locate(info: Any) -> tuple[str, int, int]:
    # Without directories, which could lead out of the checkpoint.
    return Path(info.relative_path).name, info.offset, info.length


def _narrow(tensor: torch.Tensor, offsets: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    for axis, (start, size) in enumerate(zip(offsets, sizes, strict=True)):
        tensor = tensor.narrow(axis, start, size)
    return tensor
