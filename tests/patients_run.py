"""Patients with one to five films each, as samples of several media. Of those who are ill, one film shows a bright
square, and they die sooner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medvlm.io.images import encode_png
from tests.labelled_run import CARD, ENCODER, FIT, recipe

SIDE = 32
LABELS = {"kind": "labels", "classes": ["absent", "present"]}
PATIENTS: dict[str, Any] = {
    **CARD,
    "name": "patients",
    "reader": {
        "kind": "table",
        "file": "table.csv",
        "key": "{patient}",
        "patient": "{patient}",
        "media": [{"file": "{film}", "kind": "film", "many": True}],
        "questions": [
            {"text": "Is there a square?", "answer": "{ill}", "template": "ill", "task": LABELS, "once": True},
            {"text": "Is there a square?", "answer": "{ill}", "template": "first", "task": LABELS, "once": True},
            {
                "text": "How soon?",
                "answer": "{weeks} {died}",
                "template": "death",
                "once": True,
                "task": {"kind": "survival", "event": "death", "horizons": [4, 8]},
            },
        ],
    },
}
OF_MEDIA = {"reads": "attention", "attention": {"of": "media", "width": 8, "most": 3}}
DECODERS: dict[str, Any] = {
    "ill": {"kind": "linear", "classes": ["absent", "present"], **OF_MEDIA},
    "first": {"kind": "linear", "classes": ["absent", "present"]},
    "death": {"kind": "proportional_hazards", "classes": ["death"], **OF_MEDIA},
}
LOSSES = {"ill": ["cross_entropy"], "first": ["cross_entropy"], "death": ["cox"]}


def write_patients(folder: Path, count: int = 24, **changes: Any) -> Path:
    """The recipe's file, with the card and the archive beside it. changes: of the stage."""
    root = folder / "archive"
    root.mkdir(parents=True, exist_ok=True)
    lines = ["patient,film,ill,weeks,died"]
    for number in range(count):
        rng = np.random.default_rng(number)
        films, is_ill = 1 + number % 5, number // 5 % 2 == 1
        shows = int(rng.integers(films))
        weeks, followed = rng.exponential(2 if is_ill else 20), rng.uniform(4, 30)
        for film in range(films):
            pixels = rng.integers(0, 100, (SIDE, SIDE), np.uint8)
            if is_ill and film == shows:
                y, x = rng.integers(0, SIDE - 10, 2)
                pixels[y : y + 10, x : x + 10] += 150
            (root / f"p{number}_{film}.png").write_bytes(encode_png(pixels))
            state = f"{'present' if is_ill else 'absent'},{min(weeks, followed):.1f},{int(weeks < followed)}"
            lines.append(f"p{number},p{number}_{film}.png,{state}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "card.yaml").write_text(yaml.safe_dump(PATIENTS))
    model = changes.pop("model", {"encoders": {"film": ENCODER}, "decoders": DECODERS})
    content = recipe(model=model, stages=[{**FIT, "losses": LOSSES, **changes}])
    content["data"] = {"films": {"card": "card.yaml", "root": str(root)}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
