"""ssl_ranks.py FOLDER: what tests/stages/test_ssl_ranks.py compares with one process. Started by run_ranks; each rank
writes FOLDER/rank-R.pt."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.ssl_run import DINO, MAE, SIMDINO, VOCO
from tests.train.two_ranks import first_step

CASES: dict[str, dict[str, Any]] = {
    "mae": {"loss": MAE},
    "mae in two": {"loss": MAE, "accumulate": 2},
    "dino": {"loss": DINO},
    "dino by its mean": {"loss": {**DINO, "centring": "mean"}, "check_every": 1},
    "simdino": {"loss": SIMDINO, "check_every": 1},
    "voco": {"loss": VOCO},
}


def run(folder: Path, case: str) -> dict[str, Any]:
    changes = [f"stages.0.{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in CASES[case].items()]
    return first_step(folder / "recipe.yaml", folder / "runs", "look", *changes)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.save({case: run(folder, case) for case in CASES}, folder / f"rank-{os.environ['RANK']}.pt")
