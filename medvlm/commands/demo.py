"""`medvlm demo`: the whole road on generated data, from a recipe to an evaluated, exported model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from medvlm.commands.evaluate import evaluate
from medvlm.commands.export import export
from medvlm.commands.train import train
from medvlm.core.run import RunFolder
from medvlm.evaluate.table import table
from medvlm.recipe.load import load
from medvlm.report.run import write_report
from medvlm.train.stopping import Preempted

RECIPE = "phantom.yaml"
MAX_RANKS = 4
"""More processes would have fewer than four samples of the smallest batch each."""


def demo(runs: Path, overrides: Sequence[str] = ()) -> None:
    """Trains, evaluates, exports and reports; run again, it goes on where it stopped."""
    began = time.monotonic()
    loaded = load(RECIPE, overrides)
    run = RunFolder(runs / loaded.recipe.name)
    if (ranks := _ranks()) > 1:
        _train(run, runs, overrides, ranks)
    else:
        train(loaded, runs)
    print("evaluating on held-out films, with the baselines beside", flush=True)
    rows = evaluate(run.root)
    print("exporting, and proving the export in a fresh process", flush=True)
    export(run, run.export)
    page = write_report(run)
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    print(f"\n{table(rows)}\n\nreport   {page}\nmodel    {run.export}\nafter    {minutes} min {seconds:02d} s")


def _ranks() -> int:
    """Processes to train with: one a GPU, else one a core: a second thread adds little to networks as small as
    these."""
    import torch

    there = torch.cuda.device_count() or os.cpu_count() or 1
    return max(n for n in (1, 2, MAX_RANKS) if n <= there)


def _train(run: RunFolder, runs: Path, overrides: Sequence[str], ranks: int) -> None:
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        "--signals-to-handle",
        "SIGTERM,SIGINT,SIGUSR1",
    ]
    command = [sys.executable, *launch, "-m", "medvlm", "train", RECIPE, "--runs", str(runs), *overrides]
    threads = max(1, (os.cpu_count() or 1) // ranks)
    quiet = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if subprocess.run(command, check=False, env={**quiet, **os.environ}).returncode:
        status = json.loads(run.status.read_text())["status"] if run.status.exists() else ""
        if status == "preempted":
            raise Preempted("the demo was stopped and has saved; run the same command again to go on")
        raise SystemExit("medvlm: training ended with the error above")
