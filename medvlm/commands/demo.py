"""`medvlm demo`: the full pipeline, from a recipe to an evaluated and exported model, on generated data, or on a folder
of yours with small pretrained parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from medvlm.commands.evaluate import evaluate
from medvlm.commands.export import export
from medvlm.commands.first_small import SOURCE, is_stage_for
from medvlm.commands.train import train
from medvlm.core.durable import require_local
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.evaluate.table import format_table
from medvlm.recipe.load import load
from medvlm.report.run import write_report
from medvlm.train.stopping import Preempted

RECIPE = "phantom.yaml"
FOLDER = "demo-real"
"""Below the folder of runs: the recipe and the card of `medvlm demo --real`."""
TAKEN = (Path(RECIPE).stem, "parts", FOLDER)
"""Names of folders of `medvlm demo` in the folder of runs. A run of a folder with this name gets another."""
MAX_RANKS = 4
"""With more processes, each would get fewer than four samples of the smallest batch."""


def demo(runs: Path, overrides: Sequence[str] = ()) -> None:
    """Trains, evaluates, exports and writes a report. If interrupted, run it again to resume."""
    require_local(runs)
    _go_through(RECIPE, runs, overrides)


def demo_real(runs: Path, data: Path, goal: str = "", overrides: Sequence[str] = ()) -> None:
    """The same for a folder of pictures, with small pretrained parts from the package index. goal: as of init_folder().

    Raises UserError for a folder that cannot be used, and for parts that cannot be fetched."""
    from medvlm.commands.init_folder import init_folder
    from medvlm.commands.real_parts import fetch, list_needed

    require_local(runs)
    own, parts = runs / FOLDER, (runs / "parts").resolve()
    recipe = own / "recipe.yaml"
    if not recipe.exists():
        print(*init_folder(data, own, goal=goal, parts=str(parts)), sep="\n", flush=True)
    else:
        there = load(recipe).recipe
        if there.data[SOURCE].root != str(data.resolve()) or not is_stage_for(goal, there.stages[0].name, str(parts)):
            raise RecipeError(
                f"{own}: is of another folder or goal; to resume, give the same --real and --for; else remove it"
            )
    fetch(list_needed(recipe.read_text()), parts, lambda line: print(line, flush=True))
    name = load(recipe).recipe.name
    renamed = [f"name=real-{name}"] if name in TAKEN else []
    _go_through(str(recipe), runs, [*renamed, *overrides])


def _go_through(recipe: str, runs: Path, overrides: Sequence[str]) -> None:
    began = time.monotonic()
    loaded = load(recipe, overrides)
    run = RunFolder(runs / loaded.recipe.name)
    if (ranks := _count_ranks()) > 1:
        _train(run, recipe, runs, overrides, ranks)
    else:
        train(loaded, runs)
    print("evaluating on held-out samples, with baselines", flush=True)
    rows = evaluate(run.root)
    print("exporting, and checking the export in a new process", flush=True)
    export(run, run.export)
    page = write_report(run)
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    print(f"\n{format_table(rows)}\n\nreport   {page}\nmodel    {run.export}\nafter    {minutes} min {seconds:02d} s")


def _count_ranks() -> int:
    """Number of processes to train with: one per GPU, or one per CPU core. On networks this small, a process per core
    is faster than several threads per process."""
    import torch

    available = torch.cuda.device_count() or os.cpu_count() or 1
    return max(n for n in (1, 2, MAX_RANKS) if n <= available)


def _train(run: RunFolder, recipe: str, runs: Path, overrides: Sequence[str], ranks: int) -> None:
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        "--signals-to-handle",
        "SIGTERM,SIGINT,SIGUSR1",
    ]
    command = [sys.executable, *launch, "-m", "medvlm", "train", recipe, "--runs", str(runs), *overrides]
    threads = max(1, (os.cpu_count() or 1) // ranks)
    quiet = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    # Ctrl-C reaches torchrun too, whose processes save and end; this one waits for them.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = _run(command, {**quiet, **os.environ})
    finally:
        signal.signal(signal.SIGINT, before)
    if code:
        status = json.loads(run.status.read_text())["status"] if run.status.exists() else ""
        if status == "preempted":
            raise Preempted("the demo was stopped and has saved; run the same command again to resume")
        raise SystemExit("medvlm: training ended with the error above")


def _run(command: list[str], environment: dict[str, str]) -> int:
    """The exit code. If this process is told to end, so is the other, which then saves."""
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
