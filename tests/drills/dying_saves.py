"""dying_saves.py FOLDER BYTES: saves a second checkpoint again and again, and dies at another moment each time, until
it lives through it.

The moments: every time that Python opens, makes, renames, removes or syncs something in the folder, and, after every so
many BYTES, within a write. FOLDER/sync-N and FOLDER/async-N are what the N-th death left. Prints how many deaths there
were, of both kinds."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.train import checkpoint
from medvlm.train.checkpoint import Keep
from medvlm.train.saver import Saver
from medvlm.train.tensors import tensors_of


def main(folder: Path, every: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 16)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 16)).sum().backward()
    optimizer.step()
    tensors = tensors_of(model, {"": optimizer})
    checkpoint.save(folder / "first", 1, tensors, {"step": 1}, rank=0)
    print(json.dumps({how: deaths(folder, how, every, tensors) for how in ("sync", "async")}))


def deaths(folder: Path, how: str, every: int, tensors: dict[str, Any]) -> int:
    for n in itertools.count():
        copy = folder / f"{how}-{n}"
        shutil.copytree(folder / "first", copy)
        if not (child := os.fork()):
            die_at(n, copy, every)
            with Saver(copy, 0, Keep(last=1)) as saver:
                saver.save(2, tensors, {"step": 2}, now=how == "sync")
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return n
    raise AssertionError


def die_at(moment: int, folder: Path, every: int) -> None:
    moments, write = itertools.count(), os.write
    written = 0

    def pass_by(*_: Any) -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(event: str, arguments: Any) -> None:
        if event.startswith(("open", "os.", "shutil.")) and any(str(folder) in str(a) for a in arguments):
            pass_by()

    def write_until(file: int, data: Any) -> int:
        nonlocal written
        taken = write(file, data[: every - written % every])
        written += taken
        if written % every == 0:
            pass_by()
        return taken

    # A kill leaves what was written to the kernel, so syncing in earnest would show nothing and take minutes.
    os.write, os.fsync = write_until, pass_by  # type: ignore[assignment]
    sys.addaudithook(note)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
