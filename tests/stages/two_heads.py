"""two_heads.py FOLDER: what tests/stages/test_two_heads.py compares with one process. Started by run_ranks; each rank
writes FOLDER/rank-R.pt."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.train.two_ranks import first_step

MICRO_BATCHES = (1, 2)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    steps = {
        count: first_step(folder / "recipe.yaml", folder / "runs", "fit", f"stages.fit.accumulate={count}")
        for count in MICRO_BATCHES
    }
    torch.save(steps, folder / f"rank-{os.environ['RANK']}.pt")
