"""A run of decoders on a small archive of its own: squares to outline, sides to name, and labels of which some are
missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medvlm.io.images import encode_png

COUNT, SIDE = 60, 40
CARD: dict[str, Any] = {
    "name": "squares",
    "title": "Squares",
    "summary": "Squares of light on noise, made for tests.",
    "licence": {"id": "CC0-1.0", "commercial": True},
    "access": "open",
    "terms": "none",
    "phi": {"status": "synthetic"},
    "citation": "none",
    "homepage": "https://example.org",
    "patient_key": "patient",
    "limits": "Made up.",
    "units": "8-bit display",
    "language": ["en"],
    "media": ["film"],
    "splits": {"by": "patient", "ratios": {"train": 0.6, "val": 0.2, "test": 0.2}},
    "reader": {
        "kind": "table",
        "file": "table.csv",
        "key": "{id}",
        "patient": "{patient}",
        "media": [{"file": "{id}.png", "kind": "film"}],
        "mask": {"file": "{mask}", "values": {"square": 1}, "unmarked": [9], "template": "square"},
        "questions": [
            {
                "text": "On which side?",
                "answer": "{side}",
                "template": "side",
                "task": {"kind": "labels", "classes": ["left", "right"]},
            },
            {
                "text": "What is it like?",
                "labels": {"columns": {"large": "{large}", "high": "{high}"}},
                "template": "look",
            },
        ],
    },
}
ENCODER: dict[str, Any] = {
    "kind": "timm",
    "net": "vit_tiny_patch16_224",
    "args": {
        "depth": 1,
        "embed_dim": 32,
        "num_heads": 2,
        "patch_size": 8,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    },
    "preprocess": {"size": [32, 32], "channels": 1, "mean": [0.5], "std": [0.5]},
}
DECODERS: dict[str, Any] = {
    "square": {"kind": "conv_mask", "classes": ["square"], "width": 16},
    "side": {"kind": "linear", "classes": ["left", "right"], "reads": "mean"},
    "traits": {"kind": "linear", "classes": ["high", "large"], "exclusive": False, "answers": "look"},
}
EVENT = {"kind": "survival", "event": "death", "horizons": [4, 8]}
OUTCOMES: dict[str, Any] = {
    **CARD,
    "name": "outcomes",
    "reader": {
        **{key: value for key, value in CARD["reader"].items() if key != "mask"},
        "questions": [
            *CARD["reader"]["questions"][:1],
            {"text": "How high?", "answer": "{row}", "template": "row", "task": {"kind": "quantity", "label": "row"}},
            {
                "text": "In which third?",
                "answer": "{third}",
                "template": "third",
                "task": {"kind": "labels", "classes": ["first", "second", "last"], "ordered": True},
            },
            {"text": "How soon?", "answer": "{weeks} {died}", "template": "death", "task": EVENT},
            {"text": "How long?", "answer": "{weeks} {died}", "template": "weeks", "task": EVENT},
            {
                "text": "What is it like?",
                "labels": {"columns": {"large": "{large}", "high": "{seen_high}"}, "uncertain": ["-1"]},
                "template": "look",
            },
        ],
    },
}
"""Numbers, grades, survival and uncertain labels. A large square is a tenfold hazard of death."""
OUTCOME_DECODERS: dict[str, Any] = {
    "row": {"kind": "quantity", "classes": ["row"], "reads": "mean", "mean": 20.0, "std": 9.0},
    "third": {"kind": "ordinal", "classes": ["first", "second", "last"], "reads": "mean"},
    "death": {"kind": "proportional_hazards", "classes": ["death"], "reads": "mean"},
    "weeks": {
        "kind": "interval_hazards",
        "classes": ["death"],
        "edges": [2, 4, 8, 16],
        "reads": "mean",
    },
    "traits": DECODERS["traits"],
}
OUTCOME_LOSSES: dict[str, Any] = {
    "row": ["huber", {"kind": "squared_error", "weight": 0.5}],
    "third": ["corn"],
    "death": ["cox"],
    "weeks": ["discrete_hazards"],
    "traits": [{"kind": "binary_cross_entropy", "uncertain": {"high": 0.8}, "smoothing": 0.1}, "focal"],
}
FIT: dict[str, Any] = {
    "name": "fit",
    "kind": "heads",
    "mix": {"films": 1},
    "trains": ["encoders", "decoders"],
    "losses": {
        "square": ["dice", {"kind": "cross_entropy", "weight": 0.5}],
        "side": ["cross_entropy"],
        "traits": ["binary_cross_entropy"],
    },
    "steps": 6,
    "batch": 8,
    "save_every": 2,
    "optim": {"lr": 3.0e-3},
}


def recipe(**changes: Any) -> dict[str, Any]:
    whole = {
        "name": "squares",
        "seed": 3,
        "model": {"encoders": {"film": ENCODER}, "decoders": DECODERS},
        "data": {"films": {"card": "card.yaml", "root": "archive"}},
        "stages": [FIT],
        "engine": {"device": "cpu", "workers": 1},
        "evaluate": {"on": ["films:test"], "bootstrap": 100},
        "export": {"target": "custom"},
    }
    return {**whole, **changes}


def write_run(folder: Path, content: dict[str, Any], card: dict[str, Any] = CARD, count: int = COUNT) -> Path:
    """The recipe's file, with the card and the archive beside it."""
    write_archive(folder / "archive", count)
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    path = folder / "recipe.yaml"
    data = {name: {**source} for name, source in content["data"].items()}
    for source in data.values():
        source["root"] = str(folder / source["root"])
    path.write_text(yaml.safe_dump({**content, "data": data}))
    return path


def write_archive(root: Path, count: int = COUNT) -> None:
    """A square of 8 or 16 pixels in each film. Every fifth has no mask, and in every seventh nobody marked a strip."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["id,patient,mask,side,large,high,row,third,weeks,died,seen_high"]
    for number in range(count):
        side = int(rng.choice([8, 16]))
        y, x = (int(v) for v in rng.integers(0, SIDE - side, 2))
        film, mask = rng.integers(0, 90, (SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        film[y : y + side, x : x + side] += 150
        mask[y : y + side, x : x + side] = 1
        if number % 7 == 0:
            mask[:, :3] = 9
        (root / f"f{number}.png").write_bytes(encode_png(film))
        (root / f"m{number}.png").write_bytes(encode_png(mask))
        kept = "" if number % 5 == 0 else f"m{number}.png"
        where = "left" if x + side / 2 < SIDE / 2 else "right"
        high = "" if number % 3 == 0 else int(y + side / 2 < SIDE / 2)
        third = ("first", "second", "last")[min(2, int(3 * (y + side / 2) / SIDE))]
        weeks = np.random.default_rng(number).exponential(2 if side == 16 else 20)
        followed = np.random.default_rng([number, 1]).uniform(2, 30)
        outcome = f"{min(weeks, followed):.1f},{int(weeks < followed)},{-1 if number % 4 == 1 else high}"
        lines.append(
            f"f{number},p{number // 2},{kept},{where},{int(side == 16)},{high},{y + side / 2:g},{third},{outcome}"
        )
    (root / "table.csv").write_text("\n".join(lines) + "\n")
