"""Checkpoints: whole or absent, hashed, never written twice, the newest good one taken.

STAGE/step-N/ holds tensors/ (torch.distributed.checkpoint over safetensors: weights and optimiser), random-RANK.pt,
state.json and manifest.json with size and SHA-256 of every other file.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from medvlm.core.durable import sync_folder
from medvlm.core.errors import CheckpointError
from medvlm.train.snapshot import Snapshot
from medvlm.train.storage import HashingFile, Reader, Writer
from medvlm.train.tensors import Read

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Keep:
    """Which checkpoints of a stage stay: the newest, and those of every so many steps."""

    last: int = 2
    every: int = 0

    def of(self, steps: Collection[int], newest: int, best: int = 0) -> set[int]:
        """best: the step that a stage hands on, if it is not the last."""
        return {
            *sorted(n for n in steps if n <= newest)[-self.last :],
            *(n for n in steps if n == best or (self.every and n % self.every == 0)),
        }


def find_final(stage_folder: Path) -> Path:
    """The checkpoint that a finished stage hands on."""
    return stage_folder / str(json.loads((stage_folder / "stage.json").read_text())["take"])


def save(
    stage_folder: Path,
    step: int,
    tensors: dict[str, Any] | Snapshot,
    state: dict[str, Any],
    rank: int,
    *,
    random: dict[str, Any] | None = None,
    group: Any = None,
    may_save: Callable[[], None] = lambda: None,
    note: Callable[[int], None] = lambda _: None,
) -> Path:
    """The folder step-N, once it is whole on disk. Called on every rank; what goes wrong on one is raised on all.

    tensors: as the engine gives them, or a snapshot of them. random: `random_state()` of the moment. group: the process
    group to agree in. may_save: raises on the first rank if the folder is not ours. note: is told of every piece that
    is written. Raises CheckpointError when the disk is full; then the checkpoints before are as they were.
    """
    final, part = stage_folder / f"step-{step}", stage_folder / f"step-{step}.part"

    def begin() -> None:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)

    def own() -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save(random_state() if random is None else random, buffer)
        return {
            **{f"tensors/{name}": p for name, p in writer.prints.items()},
            **_put(part, f"random-{rank}.pt", buffer.getvalue()),
        }

    def finish() -> None:
        manifest = {name: p for share in prints for name, p in share.items()}
        manifest |= {
            "tensors/.metadata": _fingerprint(part / "tensors" / ".metadata"),
            **_put(part, "state.json", json.dumps(state, indent=1).encode()),
        }
        _put(part, "manifest.json", json.dumps(dict(sorted(manifest.items())), indent=1).encode())
        for folder in (part / "tensors", part):
            sync_folder(folder)
        may_save()
        if final.exists():
            set_aside(final)
        part.rename(final)
        sync_folder(stage_folder)

    try:
        _together(begin if rank == 0 else _nothing, group)
        writer = Writer(part / "tensors", note)
        _save_tensors(tensors if isinstance(tensors, Snapshot) else Snapshot(tensors, rank == 0), writer, group)
        prints = _together(own, group)
        _together(finish if rank == 0 else _nothing, group)
    except OSError as reason:
        if rank == 0:
            shutil.rmtree(part, ignore_errors=True)
        raise _refused(reason, final) from reason
    return final


def newest(stage_folder: Path, say: Any = print) -> Path | None:
    """The newest checkpoint whose manifest verifies; damaged ones are set aside as step-N.bad-K, and said. What a save
    that was cut off left is removed."""
    for part in stage_folder.glob("step-*.part"):
        shutil.rmtree(part)
    for folder in reversed(_steps(stage_folder)):
        if damage := damaged(folder):
            say(
                f"checkpoint {stage_folder.name}/{folder.name} is damaged ({damage}); set aside, going back to the one"
                " before"
            )
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
    with ThreadPoolExecutor(4) as threads:
        for (name, entry), now in zip(
            stated.items(), threads.map(lambda name: _fingerprint(folder / name), stated), strict=True
        ):
            if (now["bytes"], now["sha256"]) != entry:
                return f"{name} is not what was saved"
    if (step := read_state(folder).get("step", step_of(folder))) != step_of(folder):
        return f"it is the one of step {step}"
    return ""


def restore(folder: Path, load: Callable[[Read, Collection[str]], None], rank: int) -> dict[str, Any]:
    """Puts weights, optimiser and random state back and returns state.json. load: the engine's."""

    def read(tensors: dict[str, Any]) -> None:
        with _quiet(), _as_it_was_raised():
            dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())

    reader = Reader(folder / "tensors")
    load(read, reader.stored)
    # Another number of ranks has other random streams; then the samples are the same and dropout is not.
    if (own := folder / f"random-{rank}.pt").exists():
        set_random_state(torch.load(own, weights_only=True))
    return read_state(folder)


def read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def read_weights(folder: Path, extra_model: str = "") -> dict[str, torch.Tensor]:
    """Every weight of the model of a checkpoint, or of a model that the stage keeps beside it, on the CPU. Raises
    CheckpointError when the checkpoint is damaged."""
    require_whole(folder)
    reader, prefix = Reader(folder / "tensors"), f"models.{extra_model}." if extra_model else "model."
    return {name.removeprefix(prefix): reader.tensor(name) for name in reader.stored if name.startswith(prefix)}


def require_whole(folder: Path) -> None:
    if damage := damaged(folder):
        raise CheckpointError(
            f"{folder.parent.name}/{folder.name}: {damage}; take an earlier checkpoint or train the stage again"
        )


def digest(folder: Path) -> str:
    """What lineage names a checkpoint by: the hash of its manifest."""
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:16]


def prune(stage_folder: Path, keep: Keep, newest: int, best: int = 0) -> None:
    """Removes the checkpoints that need not stay, now that `newest` is on disk."""
    stay = keep.of(saved_steps(stage_folder), newest, best)
    for folder in _steps(stage_folder):
        if step_of(folder) not in stay and step_of(folder) < newest:
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


def _save_tensors(snapshot: Snapshot, writer: Writer, group: Any) -> None:
    if dist.is_initialized():
        with _as_it_was_raised():
            dcp.save({}, storage_writer=writer, planner=snapshot, process_group=group)
        return
    # What dcp.save does in one process, which warns each time that there are no others.
    writer.set_up_storage_writer(True)
    plans, contents = snapshot.create_global_plan([writer.prepare_local_plan(snapshot.create_local_plan())])
    (plan,) = writer.prepare_global_plan(plans)
    writer.finish(contents, [writer.write_data(snapshot.finish_plan(plan), snapshot).wait()])


def _together(act: Callable[[], T], group: Any) -> list[T]:
    """What `act` returns on each rank. What goes wrong on one rank is raised on all, so that none waits for another in
    vain."""
    try:
        done: Any = (act(), None)
    except Exception as reason:
        done = (None, reason)
    everywhere = [done]
    if dist.is_initialized():
        everywhere = [None] * dist.get_world_size(group)
        dist.all_gather_object(everywhere, done, group=group)
    if failures := [reason for _, reason in everywhere if reason is not None]:
        raise failures[0]
    return [value for value, _ in everywhere]


def _nothing() -> None:
    pass


def _refused(reason: OSError, final: Path) -> Exception:
    """The error of a save that the file system did not take, in words for the user."""
    before = saved_steps(final.parent)
    rest = f"the last good checkpoint is step-{before[-1]}" if before else "there is no checkpoint of this stage yet"
    what = "the disk is full or a quota is used up" if reason.errno in FULL else f"{reason.strerror or reason}"
    return CheckpointError(
        f"{final.parent.name}/{final.name} was not saved: {what}; {rest}. Make room and run the same command again"
    )


def _put(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    with HashingFile(folder / name) as file:
        file.write(data)
    return {name: file.print}


def _steps(stage_folder: Path) -> list[Path]:
    return sorted((f for f in stage_folder.glob("step-*") if f.name.removeprefix("step-").isdigit()), key=step_of)


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


@contextmanager
def _as_it_was_raised() -> Iterator[None]:
    """torch wraps what went wrong on a rank into something that is no Exception, and would pass every handler."""
    try:
        yield
    except CheckpointException as failure:
        raise next(iter(failure.failures.values()))[0] from None


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns on every load that one process saves without a process group, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        yield
