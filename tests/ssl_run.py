"""Runs that train an encoder on the films of tests/labelled_run.py without their labels."""

from __future__ import annotations

from typing import Any

from tests import labelled_run

MAE: dict[str, Any] = {"kind": "mae", "width": 16, "layers": 1, "heads": 2}
HI_END: dict[str, Any] = {**MAE, "kind": "hi_end_mae", "depths": [-2]}
HEADS: dict[str, Any] = {"hidden": 24, "width": 12, "local_views": 2, "local_size": [16, 16]}
DINO: dict[str, Any] = {"kind": "dino", "prototypes": 24, **HEADS}
SIMDINO: dict[str, Any] = {"kind": "simdino", **HEADS}
VOCO: dict[str, Any] = {"kind": "voco", "width": 16}
VOCO_OMNI: dict[str, Any] = {
    **VOCO,
    "kind": "voco_omni",
    "decoder": {"kind": "conv_mask", "classes": ["square"], "width": 16, "answers": "square"},
    "losses": ["dice", "cross_entropy"],
}
LVM_MED: dict[str, Any] = {"kind": "lvm_med", "width": 12, "hidden": 24, "parts": 2, "neighbours": 3}
LOOK: dict[str, Any] = {
    "name": "look",
    "kind": "ssl",
    "mix": {"films": 1},
    "trains": ["encoders", "objective"],
    "loss": MAE,
    "steps": 6,
    "batch": 8,
    "save_every": 2,
    "optim": {"lr": 3.0e-3},
}


def recipe(**changes: Any) -> dict[str, Any]:
    """changes: of the stage."""
    whole = labelled_run.recipe(name="look", stages=[{**LOOK, **changes}])
    whole["model"] = {"encoders": {"film": labelled_run.ENCODER}}
    whole["evaluate"] = {"on": ["films:test"], "protocols": ["knn", "linear_probe"], "bootstrap": 100}
    return whole
