"""dying.py RECIPE RUNS STAGE STEP AT: trains, and is killed without a word at a step of a stage.

AT: `logged`, as soon as the step is in metrics.jsonl and the checkpoint before it on disk. Within the save after the
step: `tensors`, when they are written; `random`, before the manifest; `manifest`, when it is there and nothing is
synced; `renamed`, before older checkpoints are removed. `stage`: before stage.json is written. Within the step, of a
stage that draws answers: `drawing`, before the third tokens of its answers; `scoring`, before its third answer is read;
`updating`, before the optimizer moves the weights.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlm.commands import train as training
from medvlm.models import generate
from medvlm.recipe.load import load
from medvlm.stages._policy import Policy
from medvlm.train import checkpoint
from medvlm.train.engine import Engine
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
        "drawing": (generate, "_draw_tokens", nth_of_step(3, stage, int(step))),
        "scoring": (Policy, "read", nth_of_step(3, stage, int(step))),
        "updating": (Engine, "step", nth_of_step(1, stage, int(step))),
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


def nth_of_step(n: int, stage: str, step: int) -> Callable[..., bool]:
    """Whether it is the n-th call since the step before was logged; step: 2 or more."""
    logged, calls, write = ("", 0), 0, Log.write

    def noted(self: Log, record: dict[str, Any]) -> None:
        nonlocal logged, calls
        write(self, record)
        logged, calls = (record["stage"], record["step"]), 0

    def is_here(*_: Any, **__: Any) -> bool:
        nonlocal calls
        calls += 1
        return (logged, calls) == ((stage, step - 1), n)

    Log.write = noted  # type: ignore[method-assign]
    return is_here


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
