"""Studies of one to three films with a report, boxes of regions and findings, made for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medvlm.io.images import encode_png

REGIONS = {"cardiac silhouette": (10, 14, 26, 30), "left lung": (22, 4, 38, 30), "right lung": (2, 4, 18, 30)}
FINDINGS = ("cardiomegaly", "pleural effusion")
CARD: dict[str, Any] = {
    "name": "studies",
    "title": "Studies",
    "summary": "Films with squares, made for tests.",
    "licence": {"id": "CC0-1.0", "commercial": True},
    "access": "open",
    "terms": "none",
    "phi": {"status": "synthetic"},
    "citation": "none",
    "homepage": "https://example.org",
    "patient_key": "study",
    "limits": "Made up.",
    "units": "8-bit display",
    "language": ["en"],
    "media": ["film"],
    "splits": {"by": "patient", "ratios": {"train": 0.8, "val": 0.1, "test": 0.1}},
    "reader": {
        "kind": "table",
        "file": "studies.csv",
        "key": "{study}",
        "patient": "{study}",
        "report": "{report}",
        "media": [{"file": "{film}", "kind": "film", "many": True}],
        "questions": [
            {
                "text": "What does it show?",
                "template": "findings",
                "labels": {"columns": {name: f"{{{name}}}" for name in FINDINGS}},
                "once": True,
            }
        ],
        "objects": {
            "named": "region",
            "corners": ["x1", "y1", "x2", "y2"],
            "classes": {name: {"one": name, "many": name} for name in REGIONS},
            "boxes": {"wordings": ["Where is the {one}?"]},
        },
    },
}
"""Of every third study, a finding is not known."""


def write_studies(folder: Path, count: int = 40, px: int = 40) -> Path:
    """card.yaml and what it reads, in the folder; returns the folder."""
    rng = np.random.default_rng(3)
    lines = [",".join(("study", "film", "report", *FINDINGS, "region", "x1", "y1", "x2", "y2"))]
    for study in range(count):
        is_large, is_wet = study % 2, study // 2 % 2
        films = [f"{study}-{number}.png" for number in range(1 + study % 3)]
        for name in films:
            pixels = rng.integers(0, 60, (px, px))
            pixels[14:30, 10:26] += 60 + 60 * is_large
            pixels[20:30, 30:38] += 90 * is_wet
            (folder / name).write_bytes(encode_png(pixels.astype(np.uint8)))
        heart = ("The heart is normal in size.", "The heart is large.")[is_large]
        lung = ("The left lung is clear.", "There is an effusion beside the left lung.")[is_wet]
        told = (f"{heart} {lung} Study {study}.", is_large, "" if study % 3 == 0 else is_wet)
        seen = [(name, box) for number, (name, box) in enumerate(REGIONS.items()) if study % 4 != number]
        for at, (region, box) in enumerate(seen):
            film = films[min(at, len(films) - 1)]
            lines.append(",".join(map(str, (study, film, *told, region, *box))))
    (folder / "studies.csv").write_text("\n".join(lines) + "\n")
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    return folder
