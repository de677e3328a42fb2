"""dying.py RECIPE RUNS STAGE STEP AT: trains, and is killed without a word at a step of a stage.

AT: `logged`, as soon as the step is in metrics.jsonl. Within the save after the step: `tensors`, when they are
written; `random`, before the manifest; `manifest`, when it is there and nothing is synced; `renamed`, before older
checkpoints are removed. `stage`: before stage.json is written.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlm import training
from medvlm.recipe import load
from medvlm.train import checkpoint
from medvlm.train.log import Log


def main(recipe: str, runs: str, stage: str, step: str, at: str) -> None:
    now = {"stage": "", "step": 0}
    write = Log.write

    def note(self: Log, record: dict[str, Any]) -> None:
        write(self, record)
        now.update(stage=record["stage"], step=record["step"])
        if at == "logged":
            die()

    def die() -> None:
        if now == {"stage": stage, "step": int(step)}:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            die()
            return function(*args, **kwargs)

        return called

    Log.write = note  # type: ignore[method-assign]
    places = {
        "tensors": (checkpoint, "random_state"), "random": (checkpoint, "_fingerprint"), "manifest": (checkpoint, "_sync"),
        "renamed": (checkpoint, "prune"), "stage": (training, "write_json"),
    }  # fmt: skip
    if at != "logged":
        module, name = places[at]
        setattr(module, name, dying(getattr(module, name)))
    training.train(load(recipe), Path(runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
