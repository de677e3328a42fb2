"""dying.py RECIPE RUNS STAGE STEP AT: trains, and is killed without a word at a step of a stage.

AT: `logged`, as soon as the step is in metrics.jsonl and the checkpoint before it on disk. Within the save after the
step: `tensors`, when they are written; `random`, before the manifest; `manifest`, when it is there and nothing is
synced; `renamed`, before older checkpoints are removed. `stage`: before stage.json is written.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlm.commands import train as training
from medvlm.recipe.load import load
from medvlm.train import checkpoint
from medvlm.train.log import Log
from medvlm.train.saver import Saver


def main(recipe: str, runs: str, stage: str, step: str, at: str) -> None:
    part = Path(stage) / f"step-{step}.part"
    places: dict[str, tuple[Any, str, Callable[..., bool]]] = {
        "logged": (Log, "write", lambda log, record: (record["stage"], record["step"]) == (stage, int(step))),
        "tensors": (
            checkpoint,
            "_write_file",
            lambda folder, name, data: ends(folder, part) and name.startswith("random"),
        ),
        "random": (checkpoint, "_write_file", lambda folder, name, data: ends(folder, part) and name == "state.json"),
        "manifest": (checkpoint, "sync_folder", lambda folder: ends(folder, part)),
        "renamed": (
            checkpoint,
            "prune",
            lambda folder, keep, newest, best: (folder.name, newest) == (stage, int(step)),
        ),
        "stage": (training, "write_json", lambda path, value: ends(path, Path(stage) / "stage.json")),
    }
    module, name, here = places[at]
    setattr(module, name, dying(getattr(module, name), here, last_words=wait_for_saves() if at == "logged" else None))
    training.train(load(recipe), Path(runs))


def dying(
    function: Callable[..., Any], here: Callable[..., bool], last_words: Callable[[], None] | None
) -> Callable[..., Any]:
    """The function, before which the process dies when it is called with these arguments; after it, if it has last
    words."""

    def called(*args: Any, **kwargs: Any) -> Any:
        if not here(*args, **kwargs):
            return function(*args, **kwargs)
        if last_words:
            function(*args, **kwargs)
            last_words()
        os.kill(os.getpid(), signal.SIGKILL)

    return called


def wait_for_saves() -> Callable[[], None]:
    savers: list[Saver] = []
    enter = Saver.__enter__

    def entered(saver: Saver) -> Saver:
        savers.append(saver)
        return enter(saver)

    Saver.__enter__ = entered  # type: ignore[method-assign]
    return lambda: savers[-1].wait()


def ends(path: Path, end: Path) -> bool:
    return path.parts[-len(end.parts) :] == end.parts


if __name__ == "__main__":
    main(*sys.argv[1:])
