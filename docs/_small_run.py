"""A trained, evaluated and exported run of a few steps, its shards, and files like its data, in the current folder, for
the pages that speak of a run. The arguments are further names of it, each with a seed of its own; it is made once for
all pages.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from medvlm.cli import main as call
from tests import own_folders as made
from tests.tiny_run import CARD, INSTRUCT, PAIR, REASON, recipe

ALIGN = {"name": "align", "kind": "supervised", "mix": {"films": 1}, "trains": ["connectors"], "steps": 2, "batch": 4}
NAME = "films"


def main(names: Sequence[str]) -> None:
    """The run is `runs/films` and each of `runs/NAME`; `recipe.yaml` is a recipe like its own."""
    here, whole = Path.cwd(), Path.cwd().parent / "run"
    if not (whole / "my-exported-model").exists():
        shutil.rmtree(whole, ignore_errors=True)
        train(whole)
    shutil.copytree(whole, here, dirs_exist_ok=True, symlinks=True)
    for number, name in enumerate(names):
        copy = shutil.copytree(here / "runs" / NAME, here / "runs" / name)
        path = copy / "recipe.resolved.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "seed": number}))


def train(folder: Path) -> None:
    import contextlib

    folder.mkdir()
    with contextlib.chdir(folder):
        Path("card.yaml").write_text(yaml.safe_dump(CARD))
        write_recipe(NAME)
        for words in (
            f"data pack card.yaml --out shards/{NAME}",
            f"train recipe.yaml data.{NAME}.shards=shards/{NAME}",
            f"evaluate runs/{NAME}",
            f"export runs/{NAME} --to my-exported-model",
        ):
            if code := call(words.split()):
                raise SystemExit(code)
        write_recipe("new")
        made.make_dicom(Path("dicom"), 1, is_identified=False)
        shutil.copyfile("dicom/0/0/image", "film.dcm")
        shutil.copyfile(next(Path("runs", NAME, "evaluate/gallery").rglob("*.png")), "film.png")
        Path("SHARDS").symlink_to(f"shards/{NAME}")
        Path("MODEL").symlink_to("my-exported-model")


def write_recipe(name: str) -> None:
    stages = [PAIR, ALIGN, INSTRUCT, REASON]
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe(name=name, stages=stages, evaluate={"on": [f"{NAME}:test"]})))


if __name__ == "__main__":
    main(sys.argv[1:])
