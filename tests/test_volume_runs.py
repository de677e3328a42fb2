"""Volumes whose class is the order of two balls along the depth: a 3D encoder tells it, one of slices cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medvlm import cli
from tests.labelled_run import CARD, ENCODER, FIT, recipe
from tests.tiny_run import trained

COUNT, SIZE = 400, (12, 16, 16)
ORDERS = ["bright first", "dark first"]
DEEP: dict[str, Any] = {
    "kind": "resenc",
    "widths": [8, 16, 32],
    "blocks": [1, 1, 1],
    "preprocess": {"size": SIZE, "channels": 1, "mean": [0.5], "std": [0.5], "window": [0, 255]},
}
FLAT: dict[str, Any] = {
    "kind": "slices",
    "slices": SIZE[0],
    "out": "pooled",
    "encoder": {**ENCODER, "preprocess": {**DEEP["preprocess"], "size": SIZE[1:]}},
}


def write_volumes(root: Path) -> None:
    """Noise with a bright and a dark ball of 5 voxels at the same height and width, 5 slices apart. Each slice by
    itself is equally likely in both classes."""
    root.mkdir(parents=True)
    at_DHW3 = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), -1)
    lines = ["id,patient,order"]
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        volume = rng.integers(80, 160, SIZE)
        first, y, x = rng.integers(3, 5), *rng.integers(3, SIZE[1] - 3, 2)
        is_dark_first = number % 2
        for z, is_dark in ((first, is_dark_first), (first + 5, not is_dark_first)):
            ball = np.linalg.norm(at_DHW3 - (z, y, x), axis=-1) < 2.5
            volume[ball] += -80 if is_dark else 80
        np.save(root / f"v{number}.npy", volume.astype(np.uint8))
        lines.append(f"v{number},p{number},{ORDERS[is_dark_first]}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")


def measure(folder: Path, archive: Path, encoder: dict[str, Any]) -> dict[str, Any]:
    """The row with the AUROC of `bright first`."""
    reader = {
        **{key: CARD["reader"][key] for key in ("kind", "file", "key", "patient")},
        "media": [{"file": "{id}.npy", "kind": "volume"}],
        "questions": [
            {
                "text": "Which ball comes first?",
                "answer": "{order}",
                "template": "order",
                "task": {"kind": "labels", "classes": ORDERS},
            }
        ],
    }
    split = {"by": "patient", "ratios": {"train": 0.7, "test": 0.3}}
    folder.mkdir()
    card = {**CARD, "name": "balls", "media": ["volume"], "units": "raw", "splits": split, "reader": reader}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    fit = {**FIT, "mix": {"scans": 1}, "losses": {"order": ["cross_entropy"]}, "steps": 250, "batch": 32}
    content = recipe(
        model={
            "encoders": {"volume": encoder},
            "decoders": {"order": {"kind": "linear", "classes": ORDERS, "reads": "mean"}},
        },
        data={"scans": {"card": "card.yaml", "root": str(archive)}},
        stages=[{**fit, "save_every": 0}],
        evaluate={"on": ["scans:test"], "bootstrap": 500},
    )
    (folder / "recipe.yaml").write_text(json.dumps(content))
    run = trained(folder / "recipe.yaml", folder / "runs")
    assert cli.main(["evaluate", str(run.root)]) == 0
    rows: list[dict[str, Any]] = json.loads(run.results.read_text())
    (found,) = (row for row in rows if row["metric"] == "auroc:order")
    return found


@pytest.mark.slow
def test_a_3d_encoder_tells_what_is_between_slices_and_an_encoder_of_slices_does_not(tmp_path: Path) -> None:
    write_volumes(tmp_path / "archive")
    deep, flat = (measure(tmp_path / name, tmp_path / "archive", of) for name, of in (("3d", DEEP), ("2d", FLAT)))
    assert deep["ci"][0] > 0.9 and deep["baselines"]["majority"] == 0.5, deep
    assert flat["ci"][0] < 0.5 < flat["ci"][1], flat
