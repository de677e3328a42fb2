"""Saves checkpoints in the background. Training waits only until the tensors are copied in memory, not for the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillSaving
from pathlib import Path
from typing import Any

import torch.distributed as dist

from medvlm.train import checkpoint
from medvlm.train.checkpoint import Keep
from medvlm.train.snapshot import Room, Snapshot


class Saver:
    """Saves the checkpoints of one stage on one rank. Every rank creates one at the same time. At most one save runs.

    Errors in the background are raised by the next call of `wait`, so check `has_failed` once per step. may_save:
    called by the first rank before a checkpoint gets its final name; raises if another process has taken over the
    folder. tick: called from time to time while training waits for a save that makes progress. saved: called by the
    first rank once a checkpoint is on disk, in the thread of the caller.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        keep: Keep,
        may_save: Callable[[], None] = lambda: None,
        tick: Callable[[], None] = lambda: None,
        say: Callable[[str], Any] = print,
        saved: Callable[[Path], None] = lambda folder: None,
    ):
        self.folder, self.rank, self.keep, self.may_save, self.tick, self.say = folder, rank, keep, may_save, tick, say
        self.saved = saved
        # A separate process group: saving on the group of training at the same time breaks both (gloo: connection
        # reset by peer).
        self.group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.under_way: Future[Path] | None = None
        self.room = Room()
        self.copies: bool | None = None
        self.bytes = 0
        """Bytes written by all saves so far. Distinguishes a slow disk from one that hangs."""

    def save(
        self, step: int, tensors: dict[str, Any], state: dict[str, Any], *, best: int = 0, now: bool = False
    ) -> None:
        """Returns once training may continue. With `now`, or if there is no memory for a copy, only once the checkpoint
        is on disk. Called on every rank."""
        self.wait()
        random, snapshot = checkpoint.get_random_state(), Snapshot(tensors, self.rank == 0)
        now = now or not self._has_room(snapshot.nbytes)
        if not now:
            snapshot.copy(self.room)
        self.under_way = self.thread.submit(self._save, step, snapshot, state, random, best)
        if now:
            self.wait()

    @property
    def has_failed(self) -> bool:
        return self.under_way is not None and self.under_way.done() and self.under_way.exception() is not None

    def wait(self) -> None:
        """Waits until the running save is on disk. Raises its error if it failed."""
        while self.under_way is not None:
            seen, running = self.bytes, self.under_way
            try:
                folder = running.result(timeout=1)
            except StillSaving:
                if self.bytes > seen:
                    self.tick()
                continue
            finally:
                if running.done():
                    self.under_way = None
            if self.rank == 0:
                self.saved(folder)

    def tell(self) -> None:
        """Tells of a save that has ended since, if it did not fail."""
        if self.under_way is not None and self.under_way.done() and not self.has_failed:
            self.wait()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self.wait()
        except Exception as reason:
            if kind is None:
                raise
            self.say(str(reason))  # another exception already ends the stage
        finally:
            self.thread.shutdown()
            self.room.close()
            if self.group is not None:
                dist.destroy_process_group(self.group)

    def _save(self, step: int, snapshot: Snapshot, state: dict[str, Any], random: dict[str, Any], best: int) -> Path:
        saved = checkpoint.save(
            self.folder,
            step,
            snapshot,
            state,
            self.rank,
            random=random,
            group=self.group,
            may_save=self.may_save,
            note=self._note,
        )
        if self.rank == 0:
            checkpoint.prune(self.folder, self.keep, step, best)
        return saved

    def _note(self, written: int) -> None:
        self.bytes += written

    def _has_room(self, size: int) -> bool:
        """Whether memory has room for a copy. Decided once, because later copies reuse the memory of the first."""
        if self.copies is None:
            left = measure_free_memory()
            self.copies = left is None or size * int(os.environ.get("LOCAL_WORLD_SIZE", 1)) < 0.5 * left
            if not self.copies and self.rank == 0:
                self.say(
                    f"training waits for each checkpoint: there is no memory for a copy of {size / 1e9:.1f} GB per"
                    " process"
                )
        return self.copies


def measure_free_memory() -> int | None:
    """Bytes of memory that are free on this machine or in this container; None if unknown."""
    left = []
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        left.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError):
        return None
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        left.append(int(most) - int(used.read_text()))
    return min(left)
