"""Saves in the background: training waits for a copy of the tensors in memory, not for the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillSaving
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.utils._pytree import tree_leaves

from medvlm.train import checkpoint
from medvlm.train.checkpoint import Keep


class Saver:
    """Of one stage, on one rank; every rank makes one at the same moment. At most one save is under way.

    What goes wrong in the background is raised by the next call of `wait`, so `failed` is to be looked at once a step.
    may_save is called by the first rank before a checkpoint gets its name, and raises when another run has the folder.
    tick is called now and then while training waits for a save that goes on.
    """

    def __init__(
        self, folder: Path, rank: int, keep: Keep, may_save: Callable[[], None] = lambda: None, tick: Callable[[], None] = lambda: None, say: Callable[[str], Any] = print
    ):
        self.folder, self.rank, self.keep, self.may_save, self.tick, self.say = folder, rank, keep, may_save, tick, say
        # On the group that trains, a save beside the training's own exchange breaks both (gloo: connection reset by peer).
        self.group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.under_way: Future[Path] | None = None
        cuda = torch.cuda.is_available()
        self.stager = DefaultStager(StagingOptions(use_pinned_memory=cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=cuda))
        self.copies: bool | None = None
        self.bytes = 0
        """Written so far, over all saves: what tells a slow disk from one that does nothing."""

    def save(self, step: int, tensors: dict[str, Any], state: dict[str, Any], *, best: int = 0, now: bool = False) -> None:
        """Returns once training may go on; with `now`, or where memory has no room for a copy, once the checkpoint is on disk. Called on every rank."""
        self.wait()
        random = checkpoint.random_state()
        now = now or not self._has_room(tensors)
        held: Any = tensors if now else self.stager.stage(tensors)
        self.under_way = self.thread.submit(self._save, step, held, state, random, best)
        if now:
            self.wait()

    @property
    def failed(self) -> bool:
        return self.under_way is not None and self.under_way.done() and self.under_way.exception() is not None

    def wait(self) -> None:
        """Until the save that is under way is on disk. Raises what went wrong in it."""
        while self.under_way is not None:
            seen, running = self.bytes, self.under_way
            try:
                running.result(timeout=1)
            except StillSaving:
                if self.bytes > seen:
                    self.tick()
                continue
            finally:
                if running.done():
                    self.under_way = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self.wait()
        except Exception as reason:
            if kind is None:
                raise
            self.say(str(reason))  # something else already ends the stage
        finally:
            self.thread.shutdown()
            self.stager.close()
            if self.group is not None:
                dist.destroy_process_group(self.group)

    def _save(self, step: int, tensors: dict[str, Any], state: dict[str, Any], random: dict[str, Any], best: int) -> Path:
        saved = checkpoint.save(self.folder, step, tensors, state, self.rank, random=random, group=self.group, may_save=self.may_save, note=self._note)
        if self.rank == 0:
            checkpoint.prune(self.folder, self.keep, step, best)
        return saved

    def _note(self, written: int) -> None:
        self.bytes += written

    def _has_room(self, tensors: dict[str, Any]) -> bool:
        """Asked once: later copies go where the first one lies."""
        if self.copies is None:
            size = sum(_local(t).nbytes for t in tree_leaves(tensors) if isinstance(t, torch.Tensor))
            left = memory_left()
            self.copies = left is None or size * int(os.environ.get("LOCAL_WORLD_SIZE", 1)) < 0.5 * left
            if not self.copies and self.rank == 0:
                self.say(f"training waits for each checkpoint: there is no memory for a copy of {size / 1e9:.1f} GB a process")
        return self.copies


def memory_left() -> int | None:
    """Bytes that processes of this machine, or of this container, can still take; None where that is not told."""
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


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]
