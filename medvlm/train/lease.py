"""A lease on a run folder, so that only one run at a time writes into it, even if machines share the file system."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from medvlm.core.errors import CheckpointError
from medvlm.core.stored import require_type

BEAT_S, STALE_S, END_S = 2.0, 15.0, 30.0
"""How often the owner renews the lease; how long an owner on another machine may be silent; how long a process of an
earlier attempt of the same job may take to end."""


class Owner(TypedDict):
    """What `.lease` holds of its owner, among other things."""

    id: str
    host: str
    pid: int
    machine: NotRequired[str]
    began: NotRequired[str]


class Lease:
    """Context manager for the one process that writes. `.lease` in the folder names the owner and counts its renewals.

    Raises CheckpointError if another process holds the folder. An owner on this machine is dead if its process is gone,
    an owner on another machine if it has been silent for STALE_S. A process that was silent for longer and lost its
    lease notices in `check`.
    """

    def __init__(self, folder: Path, say: Callable[[str], Any] = print):
        self.path, self.say = folder / ".lease", say
        self.me = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "machine": _identify_machine(),
            "pid": os.getpid(),
            "began": _find_start(os.getpid()),
        }
        self.me["job"] = os.environ.get("TORCHELASTIC_RUN_ID", "")
        self.beats = 0
        self.ended = threading.Event()

    def __enter__(self) -> Lease:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + END_S
        if self.path.is_dir():
            raise CheckpointError(f"{self.path}: is a folder, not the lease of a run; remove it")
        while not self._create():
            if (owner := self._read_owner()) and self._is_alive(owner):
                if self.me["job"] and owner.get("job") == self.me["job"] and time.monotonic() < until:
                    time.sleep(
                        BEAT_S / 4
                    )  # torchrun has restarted, and a process of the attempt before has not ended yet
                    continue
                raise CheckpointError(
                    f"{self.path.parent.name}: another process is training this run (process {owner.get('pid')} on"
                    f" {owner.get('host')}); wait for it, or give the recipe another name"
                )
            self._take_away(owner)
        self.thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.thread.join()
        if (self._read_owner() or {}).get("id") == self.me["id"]:
            self.path.unlink(missing_ok=True)
        os.close(self.file)

    def check(self) -> None:
        """Raises CheckpointError if another process has taken over the folder, so that this one must not write any
        more."""
        owner = self._read_owner() or {}
        if not self.path.parent.is_dir():
            raise CheckpointError(
                f"{self.path.parent}: the folder of this run was moved or deleted while it was trained; nothing more is"
                " saved. Put it back, and run the same command again"
            )
        if owner.get("id") != self.me["id"]:
            raise CheckpointError(
                f"{self.path.parent.name}: this process was silent for longer than {STALE_S:.0f} s and has lost the run"
                f" to process {owner.get('pid', '?')} on {owner.get('host', '?')}; nothing more is saved here"
            )

    def _create(self) -> bool:
        try:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        self._write()
        return True

    def _write(self) -> None:
        # By descriptor, so it goes into our own file even if that was renamed, never into the file of another process.
        os.pwrite(self.file, json.dumps({**self.me, "beats": self.beats}).ljust(512).encode(), 0)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_S):
            self.beats += 1
            try:
                self._write()
                os.fsync(self.file)  # otherwise other machines would see it late
            except OSError as reason:
                self.say(f"the lease on {self.path.parent.name} cannot be renewed: {reason.strerror}")

    def _read_owner(self) -> dict[str, Any] | None:
        """The owner of the folder; None if the file is gone, or if its owner died while writing it, or if it is not a
        lease."""
        for _ in range(3):
            try:
                owner: dict[str, Any] = json.loads(self.path.read_bytes())
                require_type(owner, Owner)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
            except (ValueError, RecursionError):
                time.sleep(0.2)  # it is being written
            else:
                return owner
        return None

    def _is_alive(self, owner: dict[str, Any]) -> bool:
        if owner.get("machine") == self.me["machine"]:
            return bool(_find_start(owner["pid"]) == owner.get("began"))
        self.say(
            f"{self.path.parent.name} was left by process {owner.get('pid')} on {owner.get('host')}; waiting up to"
            f" {STALE_S:.0f} s to see whether it still runs"
        )
        until = time.monotonic() + STALE_S
        while time.monotonic() < until:
            time.sleep(BEAT_S / 4)
            if self._read_owner() != owner:
                return True
        return False

    def _take_away(self, owner: dict[str, Any] | None) -> None:
        """Removes the file of a dead owner. If another process was faster, the file is already that of the new owner,
        and is put back."""
        aside = self.path.with_name(f".lease.{self.me['id']}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        with suppress(OSError, ValueError):
            if owner and json.loads(aside.read_text()).get("id") != owner.get("id"):
                os.link(aside, self.path)
        aside.unlink()


def _identify_machine() -> str:
    """Host, boot and PID namespace: equal for processes that can see each other's process ids."""
    try:
        return (
            f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
            f" {os.stat('/proc/self/ns/pid').st_ino}"
        )
    except OSError:
        return socket.gethostname()


def _find_start(pid: int) -> str:
    """The start time of a process on this machine, because process ids are reused; "" if it is gone or a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if after_name[0] in "ZX" else after_name[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    try:  # not on Linux: only whether the process exists
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"
