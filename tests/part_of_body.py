"""The table of docs/quickstart.md: which part of the body each image of VQA-RAD shows. `python -m tests.part_of_body`
writes it to the current folder; MEDVLM_DATA is the folder with the data set."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

BODY_PARTS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}
LACKING = 3
"""Exit code, as docs/blocks.py knows it, where the data set is not there."""


def write_cases(source: Path, folder: Path) -> Path:
    """cases.csv, and its images in `images`. source: the folder of VQA-RAD."""
    (folder / "images").symlink_to(source / "VQA_RAD Image Folder")
    records = json.loads((source / "VQA_RAD Dataset Public.json").read_text())
    images = {r["image_name"]: (r["image_case_url"][-36:-28], r["image_organ"].strip()) for r in reversed(records)}
    with (folder / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "file", "question", "answer"])
        for name, (case, organ) in sorted(images.items()):
            rows.writerow([case, f"images/{name}", "Which part of the body is this?", BODY_PARTS[organ]])
    return folder / "cases.csv"


if __name__ == "__main__":
    source = Path(os.environ.get("MEDVLM_DATA", "")) / "vqa_rad"
    if not source.is_dir():
        print("VQA-RAD in the folder vqa_rad of the environment variable MEDVLM_DATA")
        raise SystemExit(LACKING)
    write_cases(source, Path.cwd())
