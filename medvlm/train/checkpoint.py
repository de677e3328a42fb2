"""Checkpoints: whole or absent, hashed, never written twice, the newest good one taken.

STAGE/step-N/ holds tensors/ (torch.distributed.checkpoint: weights and optimiser), random-RANK.pt, state.json
and manifest.json with size and SHA-256 of every other file. Folders of a run are trusted; weights that come
from elsewhere are safetensors only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from medvlm.core.errors import CheckpointError
from medvlm.train.tensors import Read


def save(stage_folder: Path, step: int, tensors: dict[str, Any], state: dict[str, Any], rank: int) -> Path:
    """The folder step-N, once it is whole on disk. tensors: as the engine gives them. Called on every rank."""
    final, part = stage_folder / f"step-{step}", stage_folder / f"step-{step}.part"
    if rank == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    _barrier()
    with _quiet():
        dcp.save(tensors, checkpoint_id=part / "tensors", no_dist=not dist.is_initialized())
    torch.save(random_state(), part / f"random-{rank}.pt")
    _barrier()
    if rank == 0:
        (part / "state.json").write_text(json.dumps(state, indent=1))
        (part / "manifest.json").write_text(json.dumps({str(f.relative_to(part)): _fingerprint(f) for f in _files(part)}, indent=1))
        for path in (*part.rglob("*"), part):
            _sync(path)
        if final.exists():
            set_aside(final)
        part.rename(final)
        _sync(stage_folder)
    _barrier()
    return final


def newest(stage_folder: Path, say: Any = print) -> Path | None:
    """The newest checkpoint whose manifest verifies; damaged ones are set aside as step-N.bad-K, and said. What a save that was cut off left is removed."""
    for part in stage_folder.glob("step-*.part"):
        shutil.rmtree(part)
    for folder in reversed(_steps(stage_folder)):
        if damage := damaged(folder):
            say(f"checkpoint {stage_folder.name}/{folder.name} is damaged ({damage}); set aside, going back to the one before")
            set_aside(folder)
        else:
            return folder
    return None


def latest(stage_folder: Path) -> Path | None:
    """The newest checkpoint as it is: for the other ranks, once the first has verified it."""
    return _steps(stage_folder)[-1] if _steps(stage_folder) else None


def damaged(folder: Path) -> str:
    """What is wrong with a checkpoint; empty when every file is as the manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        stated = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "manifest.json is missing or unreadable"
    found = {str(f.relative_to(folder)) for f in _files(folder)} - {"manifest.json"}
    if lost := sorted(set(stated) - found):
        return f"{lost[0]} is missing"
    if foreign := sorted(found - set(stated)):
        return f"{foreign[0]} is not in the manifest"
    for name, entry in stated.items():
        now = _fingerprint(folder / name)
        if (now["bytes"], now["sha256"]) != entry:
            return f"{name} is not what was saved"
    return ""


def restore(folder: Path, load: Callable[[Read, Collection[str]], None], rank: int) -> dict[str, Any]:
    """Puts weights, optimiser and random state back and returns state.json. load: the engine's."""
    names = dcp.FileSystemReader(folder / "tensors").read_metadata().state_dict_metadata

    def read(tensors: dict[str, Any]) -> None:
        with _quiet():
            dcp.load(tensors, checkpoint_id=folder / "tensors", no_dist=not dist.is_initialized())

    load(read, names)
    # Another number of ranks has other random streams; then the samples are the same and dropout is not.
    if (own := folder / f"random-{rank}.pt").exists():
        set_random_state(torch.load(own, weights_only=True))
    return read_state(folder)


def read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight of a checkpoint of this run, on the CPU. Raises CheckpointError when it is damaged."""
    if damage := damaged(folder):
        raise CheckpointError(f"{folder.parent.name}/{folder.name}: {damage}; take an earlier checkpoint or train the stage again")
    reader = dcp.FileSystemReader(folder / "tensors")
    stored = reader.read_metadata().state_dict_metadata
    empty = {
        name.removeprefix("model."): torch.empty(entry.size, dtype=entry.properties.dtype)  # type: ignore[union-attr]
        for name, entry in stored.items()
        if name.startswith("model.")
    }
    with _quiet():
        dcp.load({"model": empty}, storage_reader=reader, no_dist=True)
    return empty


def digest(folder: Path) -> str:
    """What lineage names a checkpoint by: the hash of its manifest."""
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:16]


def prune(stage_folder: Path, keep: set[int]) -> None:
    """Removes all checkpoints but these steps."""
    for folder in _steps(stage_folder):
        if step_of(folder) not in keep:
            shutil.rmtree(folder)


def set_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.bad-{number}")).exists():
        number += 1
    folder.rename(aside)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def saved_steps(stage_folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    return [step_of(folder) for folder in _steps(stage_folder)]


def random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _steps(stage_folder: Path) -> list[Path]:
    return sorted((f for f in stage_folder.glob("step-*") if f.name.removeprefix("step-").isdigit()), key=step_of)


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns on every save that one process saves without a process group, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        yield
