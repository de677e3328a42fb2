"""Slides of which one tile decides: attention finds it, from a table to the results, and the mean of all tiles drowns
it. And vectors that are trained to be near each other, measured by image retrieval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medvlm import cli
from medvlm.compositions._open import open_model
from medvlm.core.run import RunFolder
from medvlm.io.images import encode_png
from medvlm.io.opening import open_shards
from medvlm.models.parts import encode, evaluating
from tests.labelled_run import CARD, ENCODER, FIT, OUTCOMES, recipe, write_run
from tests.patients_run import DECODERS, write_patients
from tests.tiny_run import trained

pytestmark = pytest.mark.slow
TILES, TILE = 4, 32
COUNT = 320


def write_slides(root: Path) -> None:
    """Noise; in every second slide, one tile has a bright square of 10 pixels. Every slide has darker ones."""
    root.mkdir(parents=True)
    lines = ["id,patient,bag,tile"]
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        slide = rng.integers(0, 100, (TILES * TILE, TILES * TILE), np.uint8)
        tiles = rng.permutation(TILES * TILES)[:6].tolist()
        for rank, tile in enumerate(tiles):
            y, x = (TILE * at + int(rng.integers(2, TILE - 12)) for at in divmod(tile, TILES))
            slide[y : y + 10, x : x + 10] //= 3
            if number % 2 and not rank:
                slide[y : y + 10, x : x + 10] += 150
        (root / f"s{number}.png").write_bytes(encode_png(slide))
        lines.append(f"s{number},p{number},{'present' if number % 2 else 'absent'},{tiles[0]}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")


def ask(template: str) -> dict[str, Any]:
    task = {"kind": "labels", "classes": ["absent", "present"]}
    return {"text": "Is there a bright square?", "answer": "{bag}", "template": template, "task": task}


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("bags")
    write_slides(folder / "archive")
    reader = {key: CARD["reader"][key] for key in ("kind", "file", "key", "patient", "media")}
    card = {**CARD, "name": "slides", "reader": {**reader, "questions": [ask("mean"), ask("attention")]}}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    linear = {"kind": "linear", "classes": ["absent", "present"]}
    content = recipe(
        model={
            "encoders": {"film": {"kind": "slices", "tiles": [TILES, TILES], "out": "pooled", "encoder": ENCODER}},
            "decoders": {
                "mean": {**linear, "reads": "mean"},
                "attention": {**linear, "reads": "attention", "attention": {"width": 16}},
            },
        },
        data={"films": {"card": "card.yaml", "root": str(folder / "archive")}},
        stages=[
            {
                **FIT,
                "trains": ["decoders"],
                "losses": {"mean": ["cross_entropy"], "attention": ["cross_entropy"]},
                "steps": 300,
                "batch": 32,
                "save_every": 0,
                "optim": {"lr": 2.0e-2},
            }
        ],
    )
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    run = trained(path, folder / "runs")
    assert cli.main(["evaluate", str(run.root)]) == 0
    return run


def rows(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {f"{row['task']}/{row['metric']}": row for row in json.loads(run.results.read_text())}


def test_attention_answers_what_the_mean_does_not(bags: RunFolder) -> None:
    found = rows(bags)
    attention, mean = (found[f"labels/auroc:{name}"] for name in ("attention", "mean"))
    assert attention["ci"][0] > mean["value"] + 0.05, (attention, mean)


def test_attention_looks_at_the_tile_that_decides(bags: RunFolder) -> None:
    archive = bags.root.parent.parent / "archive" / "table.csv"
    table = [line.split(",") for line in archive.read_text().splitlines()[1:]]
    (shards,) = (path for path in (bags.root.parent / "shards").iterdir() if path.is_dir())
    packed = open_shards(shards)
    (opened,) = open_model(bags.root)
    model: Any = opened
    picture_of = {(archive.parent / f"{name}.png").read_bytes(): int(tile) for name, _, _, tile in table}
    right = []
    for i in range(packed.count("test")):
        sample, files = packed.read("test", i)
        if sample.questions[0].truth.answer == "present":
            encoder, pixels = model.prepare.see(sample, files).media[0]
            with evaluating(model.model), torch.no_grad():
                features = encode(model.model.encoders[encoder], pixels[None], encoder)
                weights = model.model.decoders["attention"].attend.weigh(features)[0]
            # The first view is the whole slide.
            right.append(int(weights[1:].argmax()) == picture_of[files["0.png"]])
    assert np.mean(right) > 0.85, np.mean(right)


def test_the_film_that_decides_is_found_among_those_of_a_patient(tmp_path: Path) -> None:
    """Of patients with one to five films. A decoder that reads the first film alone knows only those whose first film
    shows the square. Results are of patients, with one row for each."""
    decoders = {
        "ill": {**DECODERS["ill"], "attention": {"of": "media", "width": 16, "most": 5}},
        "first": DECODERS["first"],
    }
    model = {"encoders": {"film": ENCODER}, "decoders": decoders}
    losses = {name: ["cross_entropy"] for name in decoders}
    fit = {"losses": losses, "steps": 300, "batch": 32, "save_every": 0, "model": model}
    run = trained(write_patients(tmp_path, 300, **fit), tmp_path / "runs")
    assert cli.main(["evaluate", str(run.root)]) == 0
    found = rows(run)
    bag, first = (found[f"labels/auroc:{name}"] for name in ("ill", "first"))
    assert bag["n"] == bag["patients"] == first["n"]
    assert bag["ci"][0] > first["value"] + 0.05, (bag, first)


SPLIT = {"kind": "subspaces", "learners": 3, "every": 20, "patience": 2}


@pytest.mark.parametrize(("loss", "changes"), [("triplet", {}), ("multi_similarity", {}), ("distance_margin", SPLIT)])
def test_images_of_a_class_are_nearer_after_training(loss: str, changes: dict[str, Any], tmp_path: Path) -> None:
    found = {}
    for steps in (1, 400):
        fit = {**FIT, "losses": {"third": [loss]}, "steps": steps, "batch": 32, "save_every": 0}
        fit["optim"] = {"lr": 3.0e-3 if steps > 1 else 1.0e-6}
        decoder = {"kind": "unit_vector", "classes": ["first", "second", "last"], "reads": "mean", "width": 16}
        model = {"encoders": {"film": ENCODER}, "decoders": {"third": {**decoder, **changes}}}
        content = recipe(model=model, stages=[fit])
        content["evaluate"]["protocols"] = ["neighbours"]
        path = write_run(tmp_path / str(steps), content, OUTCOMES, count=400)
        run = trained(path, path.parent / "runs")
        assert cli.main(["evaluate", str(run.root)]) == 0
        found[steps] = rows(run)["neighbours/map:third"]
    assert found[400]["ci"][0] > found[1]["ci"][1] and found[400]["paired"]["verdict"] == "better", found
