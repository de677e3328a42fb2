"""A run's folder while processes train it: nobody else writes into it, and its status says how they fare."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from medvlm.core.errors import CheckpointError
from medvlm.core.run import RunFolder, write_json
from medvlm.train import checkpoint
from medvlm.train.engine import Engine
from medvlm.train.lease import Lease
from medvlm.train.stopping import Preempted, preemptible


@contextmanager
def hold(run: RunFolder, engine: Engine) -> Iterator[Callable[[], None]]:
    """Yields what raises once another process has taken the folder over. A signal ends what is done inside.

    Raises Preempted after a signal; CheckpointError for a folder that is held, and for a disk that is full.
    """
    with Lease(run.root) if engine.is_first else nullcontext() as lease:
        try:
            with preemptible(), _explain_full_disk(run):
                yield lease.check if lease else _check_nothing
        except Preempted:
            write_status(run, engine, "preempted")
            raise
        except BaseException as reason:
            # After a stall the status says so already, and what is raised here only follows from it.
            if not run.stalled.exists():
                write_status(run, engine, "failed", type(reason).__name__)
            raise
        write_status(run, engine, "done")


def write_status(run: RunFolder, engine: Engine, status: str, reason: str = "") -> None:
    if not engine.is_first:
        return
    told = {"status": status, "reason": reason, "pid": os.getpid(), "job": os.environ.get("TORCHELASTIC_RUN_ID", "")}
    try:
        write_json(run.status, told)
    except OSError:
        if status == "running":
            raise
        run.status.write_text(json.dumps(told))  # a full disk still has the room that the old one takes


@contextmanager
def _explain_full_disk(run: RunFolder) -> Iterator[None]:
    """A traceback would not."""
    try:
        yield
    except OSError as reason:
        if reason.errno not in checkpoint.FULL:
            raise
        raise CheckpointError(
            f"{run.root.name}: the disk is full or a quota is used up; make room and run the same command again"
        ) from reason


def _check_nothing() -> None:
    pass
