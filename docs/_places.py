"""The folder in which the blocks of a page run: what the page takes for granted, made from seeds."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from medvlm.preflight.rehearsal.ready import save_tiny
from tests import own_folders as made
from tests.tiny_run import CARD, INSTRUCT, PAIR, REASON, recipe

ROOT = Path(__file__).parent.parent
LINKED = ("recipes", "data_cards", "launch", "benchmarks", "tests")
WITH_RUN = {
    "commands.md",
    "evaluation.md",
    "exporting.md",
    "pages.md",
    "python.md",
    "running.md",
    "serving.md",
    "data.md",
}
"""Pages that speak of runs: they get a small one, under the names that they use."""
RUNS = (
    "NAME",
    "A",
    "B",
    "BASE",
    "OTHER",
    "THIRD",
    *(f"{name}-{seed}" for name in ("base", "other") for seed in (1, 2, 3)),
)
ALIGN = {"name": "align", "kind": "supervised", "mix": {"films": 1}, "trains": ["connectors"], "steps": 2, "batch": 4}
BODY_PARTS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}


class Lacking(Exception):
    """What this machine lacks for a page."""


def make_place(page: str, folder: Path) -> Path:
    """folder: of all pages; what several of them need is made once in it. Raises Lacking."""
    place = folder / page.removesuffix(".md")
    place.mkdir()
    for name in LINKED:
        (place / name).symlink_to(ROOT / name)
    if page == "README.md":
        made.make_questions(place / "FOLDER", 30)
    if page in ("index.md", "commands.md", "data.md", "exporting.md"):
        made.make_masks(place / "FOLDER", 40)
    if page == "running.md":
        made.make_classes(place / "FOLDER", 15)
        _call(place, "init --data FOLDER --to own")
    if page in WITH_RUN:
        _put_run(place, folder / "run")
    if page == "starts.md":
        made.make_table(place / "films", 100)
        made.make_masks(place / "cells", 100)
        made.make_classes(place / "shapes", 30)
        made.make_captions(place / "reports", 60)
        made.make_dicom(place / "scans", 100, is_identified=False)
    if page == "data.md":
        _put_films(place)
    if page == "quickstart.md":
        _put_cases(place)
    if page == "extending.md":
        (place / "mylab").mkdir()
        (place / "mylab/__init__.py").touch()
        shutil.copyfile(ROOT / "recipes/phantom.yaml", place / "phantom.yaml")
        (place / "base").symlink_to(ROOT / "recipes/base")
    if page == "python.md":
        (place / "mylab").symlink_to(ROOT / "tests/plugins/mylab")
    return place


def _put_run(place: Path, whole: Path) -> None:
    """A trained, evaluated and exported run, copies of it with other seeds, its shards, and files like its data."""
    if not whole.exists():
        _train(whole)
    assert (whole / "MODEL").exists(), "the run that pages speak of could not be made (above)"
    shutil.copytree(whole, place, dirs_exist_ok=True, symlinks=True)
    for number, name in enumerate(RUNS):
        copy = shutil.copytree(place / "runs/films", place / "runs" / name)
        path = copy / "recipe.resolved.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "seed": number}))


def _train(place: Path) -> None:
    place.mkdir()
    (place / "card.yaml").write_text(yaml.safe_dump(CARD))
    _write_recipe(place, "films")
    for words in (
        "data pack card.yaml --out shards/films",
        "train recipe.yaml data.films.shards=shards/films",
        "evaluate runs/films",
        "export runs/films --to my-exported-model",
    ):
        _call(place, words)
    _write_recipe(place, "new")
    (place / "shards/vqa_rad").symlink_to("films")
    made.make_dicom(place / "dicom", 1, is_identified=False)
    shutil.copyfile(place / "dicom/0/0/image", place / "film.dcm")
    (place / "film.png").write_bytes(next(place.glob("runs/films/evaluate/gallery/**/*.png")).read_bytes())
    (place / "SHARDS").symlink_to("shards/films")
    (place / "MODEL").symlink_to("my-exported-model")


def _write_recipe(place: Path, name: str) -> None:
    whole = recipe(name=name, stages=[PAIR, ALIGN, INSTRUCT, REASON], evaluate={"on": ["films:test"]})
    (place / "recipe.yaml").write_text(yaml.safe_dump(whole))


def _put_films(place: Path) -> None:
    """The table that the card of data.md reads."""
    root = made.make_table(place / "data/films", 60)
    with (root / "films.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {"patient": row["patient_id"], "report": "No effusion.", "effusion": row["Bright"].lower()}
    made.write_table(root / "films.csv", rows)


def _put_cases(place: Path) -> None:
    """The table of quickstart.md, from VQA-RAD, and a small model."""
    source = Path(os.environ.get("MEDVLM_DATA", "")) / "vqa_rad"
    if not source.is_dir():
        raise Lacking("VQA-RAD in the folder vqa_rad of the environment variable MEDVLM_DATA")
    (place / "images").symlink_to(source / "VQA_RAD Image Folder")
    records = json.loads((source / "VQA_RAD Dataset Public.json").read_text())
    images = {r["image_name"]: (r["image_case_url"][-36:-28], r["image_organ"].strip()) for r in reversed(records)}
    question = "Which part of the body is this?"
    rows = [
        {"patient": case, "file": f"images/{name}", "question": question, "answer": BODY_PARTS[organ]}
        for name, (case, organ) in sorted(images.items())
    ]
    made.write_table(place / "cases.csv", rows)
    save_tiny("qwen3_vl", place / "tiny-qwen3-vl")


def _call(place: Path, words: str) -> None:
    subprocess.run([sys.executable, "-m", "medvlm", *words.split()], cwd=place, env=_environment(), check=True)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
