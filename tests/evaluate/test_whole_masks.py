"""Volumes that are larger than the input are evaluated on all of their voxels, as `medvlm segment` writes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from medvlm import api
from medvlm.compositions._open import open_model
from medvlm.core.run import RunFolder
from medvlm.core.sample import truth_from_json
from medvlm.evaluate.protocols.whole_masks import lay_over
from medvlm.models.sliding import Windows
from medvlm.tasks._runs import read_runs
from tests.test_mask_runs import GREY, UNET
from tests.tiny_run import staged, trained, written

SIZE, INPUT = [24, 40, 48], [16, 32, 32]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    ready = {"size": INPUT, "spacing_mm": [8.0, 8.0, 8.0], "fit": "crop", "window": [-1000, 400], **GREY}
    classes = ["nodule", "clip"]
    fit: dict[str, Any] = {"name": "fit", "kind": "heads", "mix": {"volumes": 1}, "trains": ["decoders"], "steps": 2}
    whole = {
        "name": "volumes",
        "seed": 7,
        "model": {
            "encoders": {"volume": {"kind": "raw_pixels", "preprocess": ready}},
            "decoders": {"structures": {**UNET, "classes": classes, "exclusive": True}},
        },
        "data": {"volumes": {"card": "card.yaml"}},
        "stages": [{**fit, "batch": 2, "losses": {"structures": ["dice"]}}],
        "engine": {"device": "cpu", "workers": 1},
        "evaluate": {"on": ["volumes:test"], "bootstrap": 20, "protocols": ["predictions", "whole_masks"]},
    }
    card = {
        "name": "tiny",
        "title": "Tiny volumes",
        "summary": "Generated volumes for tests.",
        "licence": {"id": "CC0-1.0", "commercial": True},
        "access": "generated",
        "phi": {"status": "synthetic"},
        "patient_key": "patient",
        "media": ["volume"],
        "reader": {"kind": "phantom", "volumes": 48, "masks": True, "volume_size": SIZE},
    }
    path = written(tmp_path_factory.mktemp("whole"), whole, card)
    return trained(path, path.parent / "runs")


@pytest.mark.slow
def test_all_voxels_of_a_volume_are_judged(run: RunFolder) -> None:
    api.evaluate(run.root, ["volumes:test"])
    folder = run.root / "evaluate"
    seen, whole = (
        [json.loads(line) for line in (folder / f"{kind}.jsonl").read_text().splitlines()]
        for kind in ("predictions", "whole_masks")
    )
    assert len(seen) == len(whole) > 0
    rows = {(row["metric"], row["task"]): row for row in json.loads(run.results.read_text())}
    judged = next(row for (metric, task), row in rows.items() if task == "whole_masks" and metric == "dice")
    assert judged["n"] == len(whole) and "shuffled" in judged["baselines"] and "majority" not in judged["baselines"]
    (model,) = open_model(run.root)
    opened: Any = model
    stage = staged(run.root.parent.parent / "recipe.yaml", run.root.parent / "stage", "fit")
    source = stage.setup.open_source("volumes", "test", lambda entry: True)
    samples = {sample.key: (sample, files) for sample, files in map(source.read, range(len(source)))}
    for record in whole:
        sample, files = samples[record["key"]]
        size, truth = sample.media[0].size, truth_from_json(record["truth"])
        told: Any = truth
        assert size == tuple(SIZE) and told.spacing_mm == sample.media[0].spacing_mm
        planes, answer = (read_runs(text, len(told.classes), size) for text in (told.runs, record["answer"]))
        assert planes is not None and answer is not None
        expected, known = opened.segment(sample, files, "structures", Windows()), ("nodule", "clip")
        for name, own in zip(told.classes, answer, strict=True):
            assert np.array_equal(own, expected == known.index(name) + 1 if name in known else np.zeros(size, bool))


def test_a_mask_of_another_size_is_laid_over_by_its_centre() -> None:
    plane = np.arange(12).reshape(3, 4) % 2 == 0
    laid = lay_over(plane, (5, 2))
    assert laid.shape == (5, 2) and not laid[0].any() and not laid[4].any()
    assert np.array_equal(laid[1:4], plane[:, 1:3]) and lay_over(plane, (3, 4)) is plane
