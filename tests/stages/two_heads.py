"""two_heads.py FOLDER: what tests/stages/test_two_heads.py compares with one process. Started by run_ranks; each rank
writes FOLDER/rank-R.pt."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.tiny_run import trained
from tests.train.two_ranks import first_step

CASES = {
    "one micro-batch": ("", 1),
    "two micro-batches": ("", 2),
    "outcomes": ("outcomes", 1),
    "vectors": ("vectors", 1),
    "patients": ("patients", 1),
    "boxes": ("boxes", 1),
    "texts": ("texts", 2),
    "cuts": ("cuts", 1),
    "sets": ("sets", 2),
}
"""Name -> folder of the recipe below FOLDER, micro-batches."""


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    steps = {
        case: first_step(folder / place / "recipe.yaml", folder / place / "runs", "fit", f"stages.fit.accumulate={n}")
        for case, (place, n) in CASES.items()
    }
    trained(folder / "subspaces" / "recipe.yaml", folder / "subspaces" / "runs", "name=two")
    torch.save(steps, folder / f"rank-{os.environ['RANK']}.pt")
