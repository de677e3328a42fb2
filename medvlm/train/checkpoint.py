"""Checkpoints: written atomically and never overwritten, verified by hashes when they are read.

STAGE/step-N/ holds tensors/ (weights and optimizer state: torch.distributed.checkpoint over safetensors),
random-RANK.pt, state.json, and manifest.json with size and SHA-256 of every other file.
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
from medvlm.train.average import find_stored
from medvlm.train.snapshot import Snapshot
from medvlm.train.state_file import read_state
from medvlm.train.storage import HashingFile, TensorReader, TensorWriter
from medvlm.train.tensors import Read

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Keep:
    """Which checkpoints of a stage stay on disk: the newest `last`, and those of every `every` steps."""

    last: int = 2
    every: int = 0

    def choose(self, steps: Collection[int], newest: int, best: int = 0) -> set[int]:
        """The steps whose checkpoints stay. best: the step whose weights the next stage gets, if it is not the last
        one."""
        return {
            *sorted(n for n in steps if n <= newest)[-self.last :],
            *(n for n in steps if n == best or (self.every and n % self.every == 0)),
        }


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
    """Writes a checkpoint and returns its folder step-N. Called on every rank; an error on one rank is raised on all.

    tensors: from engine.collect_tensors(), or a snapshot of these. random: from `get_random_state()`, by default the
    current state. group: the process group for communication. may_save: called on the first rank; raises if another
    process has taken over the folder. note: called with the number of bytes after each write. Raises CheckpointError
    if the disk is full; earlier checkpoints are then unchanged.
    """
    final, part = stage_folder / f"step-{step}", stage_folder / f"step-{step}.part"

    def begin() -> None:
        may_save()  # and never into a new folder in place of one that was moved
        _remove(part)
        part.mkdir(parents=True)

    def write_own() -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save(get_random_state() if random is None else random, buffer)
        return {
            **{f"tensors/{name}": p for name, p in writer.fingerprints.items()},
            **_write_file(part, f"random-{rank}.pt", buffer.getvalue()),
        }

    def finish() -> None:
        manifest = {name: p for share in prints for name, p in share.items()}
        manifest |= {
            "tensors/.metadata": _hash_file(part / "tensors" / ".metadata"),
            **_write_file(part, "state.json", json.dumps(state, indent=1).encode()),
        }
        _write_file(part, "manifest.json", json.dumps(dict(sorted(manifest.items())), indent=1).encode())
        for folder in (part / "tensors", part):
            sync_folder(folder)
        may_save()
        if final.exists():
            set_aside(final)
        part.rename(final)
        sync_folder(stage_folder)

    try:
        _run_on_all_ranks(begin if rank == 0 else lambda: None, group)
        writer = TensorWriter(part / "tensors", note)
        _save_tensors(tensors if isinstance(tensors, Snapshot) else Snapshot(tensors, rank == 0), writer, group)
        prints = _run_on_all_ranks(write_own, group)
        _run_on_all_ranks(finish if rank == 0 else lambda: None, group)
    except OSError as reason:
        if rank == 0:
            shutil.rmtree(part, ignore_errors=True)
        raise _explain_failed_save(reason, final) from reason
    return final


def find_newest_good(stage_folder: Path, say: Any = print) -> Path | None:
    """The newest checkpoint that its manifest verifies. Damaged ones are reported and renamed to step-N.bad-K. Remains
    of interrupted saves are removed."""
    for part in stage_folder.glob("step-*.part"):
        _remove(part)
    for folder in reversed(_list_steps(stage_folder)):
        if damage := find_damage(folder):
            say(
                f"checkpoint {stage_folder.name}/{folder.name} is damaged ({damage}); set aside, going back to the one"
                " before"
            )
            set_aside(folder)
        else:
            return folder
    return None


def find_latest(stage_folder: Path) -> Path | None:
    """The newest checkpoint, not verified. For the other ranks, after the first has verified it."""
    return _list_steps(stage_folder)[-1] if _list_steps(stage_folder) else None


def find_damage(folder: Path) -> str:
    """What is wrong with a checkpoint; "" if every file matches the manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        stated = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "manifest.json is missing or unreadable"
    found = {str(f.relative_to(folder)) for f in _list_files(folder)} - {"manifest.json"}
    if lost := sorted(set(stated) - found):
        return f"{lost[0]} is missing"
    if foreign := sorted(found - set(stated)):
        return f"{foreign[0]} is not in the manifest"
    with ThreadPoolExecutor(4) as threads:
        for (name, entry), now in zip(
            stated.items(), threads.map(lambda name: _hash_file(folder / name), stated), strict=True
        ):
            if (now["bytes"], now["sha256"]) != entry:
                return f"{name} is not what was saved"
    try:
        step = read_state(folder).get("step", step_of(folder))
    except CheckpointError as reason:
        return str(reason)
    return f"it is the checkpoint of step {step}" if step != step_of(folder) else ""


def restore(folder: Path, load: Callable[[Read, Collection[str]], None], rank: int) -> dict[str, Any]:
    """Loads weights, optimizer state and random state, and returns state.json. load: engine.load."""

    def read(tensors: dict[str, Any]) -> None:
        with _ignore_warnings(), _unwrap_errors():
            dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())

    reader = TensorReader(folder / "tensors")
    load(read, reader.stored)
    # With another number of ranks, a rank may have no random state: samples stay the same, dropout does not.
    if (own := folder / f"random-{rank}.pt").exists():
        try:
            set_random_state(torch.load(own, weights_only=True))
        except Exception as reason:  # torch raises anything on hostile files
            raise CheckpointError(
                f"{folder.parent.name}/{folder.name}/{own.name} is not a random state ({type(reason).__name__}); take"
                " an earlier checkpoint or train the stage again"
            ) from None
    return read_state(folder)


def read_weights(folder: Path, extra_model: str = "") -> dict[str, torch.Tensor]:
    """What a checkpoint hands on of the model (averages where it has them), or all of an extra model, as open_tensor()
    gives it. Raises CheckpointError if it is damaged."""
    require_whole(folder)
    reader = TensorReader(folder / "tensors")
    return {name: reader.open_tensor(place) for name, place in find_stored(reader.stored, extra_model).items()}


def require_whole(folder: Path) -> None:
    if damage := find_damage(folder):
        raise CheckpointError(
            f"{folder.parent.name}/{folder.name}: {damage}; take an earlier checkpoint or train the stage again"
        )


def digest(folder: Path) -> str:
    """The hash of the manifest, by which lineage names a checkpoint."""
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:16]


def prune(stage_folder: Path, keep: Keep, newest: int, best: int = 0) -> None:
    """Removes the checkpoints that `keep` does not choose, once `newest` is on disk."""
    stay = keep.choose(list_saved_steps(stage_folder), newest, best)
    for folder in _list_steps(stage_folder):
        if step_of(folder) not in stay and step_of(folder) < newest:
            shutil.rmtree(folder)


def set_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.bad-{number}")).exists():
        number += 1
    folder.rename(aside)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def list_saved_steps(stage_folder: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    return [step_of(folder) for folder in _list_steps(stage_folder)]


def get_random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _save_tensors(snapshot: Snapshot, writer: TensorWriter, group: Any) -> None:
    if dist.is_initialized():
        with _unwrap_errors():
            dcp.save({}, storage_writer=writer, planner=snapshot, process_group=group)
        return
    # The steps of dcp.save in one process, without its warning that there is no process group.
    writer.set_up_storage_writer(True)
    plans, contents = snapshot.create_global_plan([writer.prepare_local_plan(snapshot.create_local_plan())])
    (plan,) = writer.prepare_global_plan(plans)
    writer.finish(contents, [writer.write_data(snapshot.finish_plan(plan), snapshot).wait()])


def _run_on_all_ranks(act: Callable[[], T], group: Any) -> list[T]:
    """Calls `act` on every rank and returns all results. An error on one rank is raised on all, so that no rank waits
    forever for another."""
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


def _remove(part: Path) -> None:
    """Removes what is left of an interrupted save, or a file that is in its place."""
    if part.is_dir() and not part.is_symlink():
        return shutil.rmtree(part, ignore_errors=True)
    part.unlink(missing_ok=True)


def _explain_failed_save(reason: OSError, final: Path) -> Exception:
    """Turns an OSError of a save into an error for the user."""
    before = list_saved_steps(final.parent)
    rest = f"the last good checkpoint is step-{before[-1]}" if before else "there is no checkpoint of this stage yet"
    what = "the disk is full or a quota is used up" if reason.errno in FULL else f"{reason.strerror or reason}"
    return CheckpointError(
        f"{final.parent.name}/{final.name} was not saved: {what}; {rest}. Make room and run the same command again"
    )


def _write_file(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    with HashingFile(folder / name) as file:
        file.write(data)
    return {name: file.fingerprint}


def _list_steps(stage_folder: Path) -> list[Path]:
    return sorted((f for f in stage_folder.glob("step-*") if f.name.removeprefix("step-").isdigit()), key=step_of)


def _list_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())


def _hash_file(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


@contextmanager
def _unwrap_errors() -> Iterator[None]:
    """Raises the original error. torch wraps it in a BaseException, which `except Exception` does not catch."""
    try:
        yield
    except CheckpointException as failure:
        raise next(iter(failure.failures.values()))[0] from None


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Hides the warning of torch that there is no process group, which is intended in one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        yield
