"""Writes the weights of a checkpoint as plain safetensors files, for any number of ranks, one tensor in memory at a
time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from medvlm.core.durable import require_local
from medvlm.core.errors import CheckpointError
from medvlm.core.run import read_record, write_json
from medvlm.core.stored import read_object
from medvlm.train import checkpoint
from medvlm.train.average import find_stored
from medvlm.train.finished import require_same
from medvlm.train.state_file import read_published
from medvlm.train.storage import HashingFile, TensorReader, make_header

FILE_BYTES = 5_000_000_000
"""Maximum size of a file, as used by transformers and the hub. A single larger tensor gets a file of its own."""
INDEX = "model.safetensors.index.json"


def consolidate(folder: Path, to: Path, say: Callable[[str], Any] = print, file_bytes: int = FILE_BYTES) -> list[Path]:
    """Writes safetensors files into `to`, with the index that transformers reads if there are several. Names and dtypes
    are those of training.

    A tensor that one rank wrote is copied in pieces of 8 MiB. One that is sharded over several ranks takes twice its
    memory. If interrupted, the same call continues after the last complete file. Raises CheckpointError for a damaged
    checkpoint, and if the folder holds the weights of another checkpoint.
    """
    require_local(to)
    checkpoint.require_whole(folder)
    if (folder.parent / "stage.json").is_file() and (record := read_record(folder.parent))["take"] == folder.name:
        require_same(folder, str(record.get("checkpoint", "")))
    source = f"{folder.parent.name}/{folder.name}@{checkpoint.digest(folder)}"
    _claim(to, source)
    reader = TensorReader(folder / "tensors")
    places = find_stored(reader.stored)
    stored = {name: reader.stored[place] for name, place in places.items()}
    sizes = {name: e.size.numel() * e.properties.dtype.itemsize for name, e in stored.items()}
    groups = _group_by_size(sizes, file_bytes)
    names = (
        [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
        if len(groups) > 1
        else ["model.safetensors"]
    )
    for name, group in zip(names, groups, strict=True):
        if (to / name).exists():
            say(f"{name}: exists already")
            continue
        part = to / f"{name}.part"
        part.unlink(missing_ok=True)
        with HashingFile(part) as file:
            entries = [(n, stored[n].properties.dtype, list(stored[n].size), sizes[n]) for n in group]
            file.write(make_header(entries, {"format": "pt", "checkpoint": source}))
            for tensor in group:
                for piece in reader.read_pieces(places[tensor]):
                    file.write(piece)
        part.rename(to / name)
        say(f"{name}: {len(group)} tensors, {file.bytes / 1e9:.2f} GB")
    if published := read_published(folder):
        say(
            f"{len(published)} tensors are not in it, because they are as published; medvlm export writes a whole model"
        )
    if len(groups) > 1:
        files = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
        write_json(to / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files})
    return [to / name for name in names]


class MarkRecord(TypedDict):
    """consolidated.json: the checkpoint whose weights a folder holds."""

    checkpoint: str


def _claim(to: Path, source: str) -> None:
    mark = to / "consolidated.json"
    remedy = "take another folder"
    if mark.exists() and (held := read_object(mark, MarkRecord, remedy)["checkpoint"]) != source:
        raise CheckpointError(f"{to.name} holds the weights of {held}, not of {source}; take another folder")
    write_json(mark, {"checkpoint": source})


def _group_by_size(sizes: dict[str, int], most: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sorted(sizes.items()):
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups
