"""Calls loaders in a child process limited to 2 GiB of address space and a minute per file, like the child processes of
packing."""

from __future__ import annotations

import json
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 2 << 30
SECONDS = 60


@dataclass(frozen=True)
class Verdict:
    """pixels: hash of shape, type and values, "" if the file was refused. reason: of the refusal, one line."""

    pixels: str
    reason: str

    @property
    def is_read(self) -> bool:
        return bool(self.pixels)


def judge(calls: Mapping[str, Callable[[], Any]]) -> dict[str, Verdict]:
    """Name -> result of the call. A crash, a hang, any error but DataError, and any output on stderr fail the test."""
    command = [sys.executable, "-c", "from tests.io.limited import child; child()"]
    root = str(Path(__file__).parents[2])
    ran = subprocess.run(
        command,
        input=pickle.dumps(dict(calls)),
        capture_output=True,
        cwd=root,
        env={"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    at = list(calls)[min(len(lines), len(calls) - 1)]
    assert ran.returncode == 0, f"the child ended with {ran.returncode} at {at}: {ran.stderr.decode()[-500:]}"
    assert not ran.stderr, f"something was written to stderr: {ran.stderr.decode()[-500:]}"
    found = {line["name"]: Verdict(line["pixels"], line["reason"]) for line in lines}
    assert list(found) == list(calls)
    assert all("\n" not in verdict.reason for verdict in found.values())
    return found


def digest(pixels: Any) -> str:
    import hashlib

    return hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes()).hexdigest()[:16]


def child() -> None:
    from medvlm.core.errors import DataError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name, call in pickle.load(sys.stdin.buffer).items():
        signal.alarm(SECONDS)  # the signal is not handled, so a hang ends the child
        try:
            found = {"pixels": digest(call().pixels), "reason": ""}
        except DataError as reason:
            found = {"pixels": "", "reason": str(reason)}
        print(json.dumps({"name": name, **found}), flush=True)
