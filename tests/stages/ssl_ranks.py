"""ssl_ranks.py FOLDER: what tests/stages/test_ssl_ranks.py compares with one process. Started by run_ranks; each rank
writes FOLDER/rank-R.pt."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.ssl_run import DINO, HI_END, LVM_MED, MAE, SIMDINO, VOCO, VOCO_OMNI
from tests.tiny_run import trained
from tests.train.two_ranks import first_step

CASES: dict[str, dict[str, Any]] = {
    "mae": {"loss": MAE},
    "mae in two": {"loss": MAE, "accumulate": 2},
    "hi_end_mae": {"loss": HI_END},
    "dino": {"loss": DINO},
    "dino by its mean": {"loss": {**DINO, "centring": "mean"}, "check_every": 1},
    "simdino": {"loss": SIMDINO, "check_every": 1},
    "voco": {"loss": VOCO},
    "voco_omni": {"loss": {**VOCO_OMNI, "pseudo_from": 0.0}},
    "lvm_med": {"loss": LVM_MED},
}
DEEPER = {"hi_end_mae": "model.encoders.film.args.depth=2"}
"""Case -> what it needs of the encoder."""
TAUGHT: dict[str, dict[str, Any]] = {"loss": {**DINO, "centring": "mean", "momentum": 0.5}}
ENGINES = {"fsdp2": "fsdp2", "zero2": "zero2", "ddp-bf16": "ddp"}
"""Name of a run with a teacher -> its engine."""


def run(folder: Path, case: str) -> dict[str, Any]:
    changes = [f"stages.0.{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in CASES[case].items()]
    deeper = [DEEPER[case]] if case in DEEPER else []
    return first_step(folder / "recipe.yaml", folder / "runs", "look", *changes, *deeper)


def train_taught(folder: Path, name: str, kind: str) -> None:
    """All steps of a stage with a teacher, whose checkpoints hold it."""
    changes = [f"stages.0.{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in TAUGHT.items()]
    precision = ["engine.precision=bf16-mixed"] if name.endswith("bf16") else []
    trained(folder / "recipe.yaml", folder / "runs", f"name={name}", f"engine.kind={kind}", *precision, *changes)


if __name__ == "__main__":
    folder, only = Path(sys.argv[1]), sys.argv[2:]
    for name in only:
        train_taught(folder, name, ENGINES[name])
    if not only:
        torch.save({case: run(folder, case) for case in CASES}, folder / f"rank-{os.environ['RANK']}.pt")
