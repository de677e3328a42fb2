"""`python -m tests.io.dicom.verdicts`: loads each file named on standard input with 2 GiB of memory, and prints the
result as a line of JSON."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
MEMORY_BYTES = 2 << 30


def judge(paths: Iterable[Path], timeout_s: int = 120) -> list[dict[str, Any]]:
    """One result for each path: {"refused": reason} or {"read": modality, unit, type and size, "mean": float, "crc": of
    the values}, and "seconds" of CPU time.

    The files are decoded in a child process with an address space of MEMORY_BYTES. Raises AssertionError if it crashes
    or hangs.
    """
    names = [str(path) for path in paths]
    command = [sys.executable, "-m", "tests.io.dicom.verdicts"]
    done = subprocess.run(command, input="\n".join(names), capture_output=True, text=True, timeout=timeout_s, cwd=ROOT)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(names) and done.returncode == 0, (
        f"the child died at {names[len(found) :][:1]}: {done.stderr[-2000:]}"
    )
    assert done.stderr == "", "the child wrote to stderr"
    return found


def _verdict(path: Path) -> dict[str, Any]:
    from medvlm.core.errors import DataError
    from medvlm.io.dicom.image import NAMED, load_file

    try:
        found = load_file(path, NAMED | {"cine"})
    except DataError as reason:
        return {"refused": str(reason)}
    size = " x ".join(map(str, found.pixels.shape))
    return {
        "read": f"{found.modality} {found.unit} {found.pixels.dtype} {size}",
        "mean": float(found.pixels.mean(dtype=float)),
        "crc": zlib.crc32(found.pixels.tobytes()),
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin.read().splitlines():
        start = time.process_time()
        print(json.dumps({**_verdict(Path(line)), "seconds": time.process_time() - start}), flush=True)
