"""`medvlm demo`: the whole road on generated data, from a recipe to an evaluated, exported model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from medvlm.evaluate.table import table
from medvlm.evaluation import evaluate
from medvlm.exporting import export
from medvlm.recipe import load
from medvlm.report.run import write_report
from medvlm.training import train

RECIPE = "phantom.yaml"


def demo(runs: Path, overrides: Sequence[str] = ()) -> None:
    """Trains, evaluates, exports and reports; run again, it goes on where it stopped."""
    began = time.monotonic()
    run = train(load(RECIPE, overrides), runs)
    print("evaluating on held-out films, with the baselines beside", flush=True)
    rows = evaluate(run.root)
    print("exporting, and proving the export in a fresh process", flush=True)
    export(run, run.export)
    page = write_report(run)
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    print(f"\n{table(rows)}\n\nreport   {page}\nmodel    {run.export}\nafter    {minutes} min {seconds:02d} s")
