"""Holds the folder of a run during training: no other process writes into it, and status.json shows the state."""

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
from medvlm.train.stopping import Preempted, raise_on_signal


@contextmanager
def hold(run: RunFolder, engine: Engine) -> Iterator[Callable[[], None]]:
    """Yields a function that raises once another process has taken over the folder. A signal ends the context.

    Raises Preempted after a signal, and CheckpointError if the folder is held by another process or the disk is full.
    """
    with raise_on_signal() as wish, Lease(run.root) if engine.is_first else nullcontext() as lease:
        try:
            with _explain_full_disk(run):
                yield lease.check if lease else _check_nothing
            wish.grant()
        except BaseException as reason:
            if wish.is_made or isinstance(reason, Preempted):
                write_status(run, engine, "preempted")
            # After a stall, the status names it already, and this exception is only a consequence.
            elif not run.stalled.exists():
                write_status(run, engine, "failed", type(reason).__name__)
            raise
        write_status(run, engine, "done")


def write_status(run: RunFolder, engine: Engine, status: str, reason: str = "") -> None:
    if not engine.is_first or (status != "running" and not run.root.is_dir()):  # a run that was moved stays moved
        return
    record = {"status": status, "reason": reason, "pid": os.getpid(), "job": os.environ.get("TORCHELASTIC_RUN_ID", "")}
    try:
        write_json(run.status, record)
    except OSError:
        if status == "running":
            raise
        run.status.write_text(json.dumps(record))  # on a full disk, overwriting in place still works


@contextmanager
def _explain_full_disk(run: RunFolder) -> Iterator[None]:
    """Raises CheckpointError with a remedy instead of a traceback if the disk is full."""
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
