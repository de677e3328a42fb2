"""faulty.py RECIPE RUNS FAULT STEP [OVERRIDE ...]: trains as medvlm train does; the second rank has a fault in a step,
once. Started by torchrun.

FAULT: `killed` (-9), `asleep`, `stopped` (SIGSTOP), `holding` (Python's lock, in C); `nan`, a loss that is no number;
`none`.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
from typing import Any

from medvlm import cli
from medvlm.train.engine import Engine
from medvlm.train.watch import Watch


def main(recipe: str, runs: str, fault: str, step: str, *overrides: str) -> int:
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        have(fault, int(step))
    return cli.main(["train", recipe, "--runs", runs, *overrides])


def have(fault: str, step: int) -> None:
    at, backward = Watch.move_to, Engine.backward
    now = 0

    def faulty(self: Watch, doing: str, stage: str = "", number: int = 0, samples: Any = ()) -> None:
        nonlocal now
        at(self, doing, stage, number, samples)
        now = number or now
        if doing == "computes" and number == step:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif fault == "asleep":
                time.sleep(600)
            elif fault == "holding":
                ctypes.PyDLL(None).sleep(600)

    def no_number(self: Engine, loss: Any) -> None:
        backward(self, loss * math.nan if fault == "nan" and now == step else loss)

    Watch.move_to, Engine.backward = faulty, no_number  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
