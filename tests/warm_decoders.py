"""Decoder processes for tests, forked from one that has imported what a decoder imports and compiled its patterns.

Each decoder of its own takes 1.5 s of CPU for that, and tests pack a few samples some hundred times. They are started
as the packer starts them in tests/archive/test_pack_hostile.py, in the drills, and wherever a test runs a command in a
process of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medvlm.archive.packing import decoder, decoders
from medvlm.io.phi import text

ROOT = Path(__file__).parent.parent


class Forked:
    """What _Decoder uses of subprocess.Popen, for a process that another one forked."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._code: int | None = None
        (self.pid,) = struct.unpack("i", connection.recv(4))

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._connection.settimeout(timeout)
            try:
                self._code = int.from_bytes(self._connection.recv(4), sys.byteorder, signed=True)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("decoder", timeout or 0) from None
            self._connection.close()
        return self._code

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@contextmanager
def warm(folder: Path) -> Iterator[None]:
    """While it lasts, `decoders.start` forks. The process that forks ends when this one does."""
    plain, running = decoders.start, list[tuple[subprocess.Popen[bytes], Path]]()

    def start(limits: decoders.Limits, theirs: socket.socket) -> Forked:
        if not running:  # many tests pack nothing
            running.append(launch(folder))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(running[0][1]))
        wanted = [limits.memory_bytes, limits.seconds, dict(os.environ), os.getcwd(), sys.path]
        socket.send_fds(connection, [json.dumps(wanted).encode()], [theirs.fileno()])
        return Forked(connection)

    decoders.start = start  # type: ignore[assignment]
    try:
        yield
    finally:
        decoders.start = plain
        for process, _ in running:
            process.communicate()


def launch(folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """The process that forks, ready, and the name of its socket. It ends when its standard input does."""
    place = folder / f"decoders-{os.getpid()}"
    command = [sys.executable, "-m", "tests.warm_decoders", str(place)]
    env, pipe = {**os.environ, **decoders.ENVIRONMENT}, subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe)
    assert process.stdout
    if process.stdout.readline() != b"ready\n":
        raise RuntimeError("the process that forks decoders did not start")
    return process, place


def serve(place: str) -> None:
    """Forks a decoder for every connection, sends its process id and, when it has ended, its exit code."""
    import nibabel  # noqa: F401
    import pydicom  # noqa: F401
    from PIL import Image

    Image.init()
    text._compile_patterns()
    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    children: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(64)
        print("ready", flush=True)
        waits: list[socket.socket | int] = [listener, 0, ended]
        while True:
            ready, _, _ = select.select(waits, [], [])
            if 0 in ready:
                return
            if ended in ready:
                os.read(ended, 1 << 12)
                _tell_ends(children)
            if listener in ready:
                connection, _ = listener.accept()
                wanted, (theirs,), _, _ = socket.recv_fds(connection, 1 << 20, 1)
                pid = os.fork()
                if pid == 0:
                    for other in (listener, connection, *children.values()):
                        other.close()
                    _decode(json.loads(wanted), theirs)
                os.close(theirs)
                children[pid] = connection
                connection.send(struct.pack("i", pid))


def _tell_ends(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as connection, suppress(OSError):  # the packer may be gone
            connection.send(struct.pack("i", os.waitstatus_to_exitcode(status)))


def _decode(wanted: list[Any], theirs: int) -> None:
    """What the interpreter does for a new process, then the decoder."""
    memory_bytes, seconds, environment, folder, paths = wanted
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = paths
        os.dup2(theirs, 0)
        os.close(theirs)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        decoder.main(memory_bytes, seconds)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
