"""The contract of compositions, tested on every file of medvlm/compositions: it builds the same modules on the meta
device, names its outputs, and gives the same model however it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medvlm.commands import export as exporting
from medvlm.compositions._composed import refuse_to_train
from medvlm.compositions._open import open_model
from medvlm.compositions._opened import Opened
from medvlm.core.ask import Ask
from medvlm.core.composition import composition_of, composition_of_stage, name_of
from medvlm.core.config import component, kinds
from medvlm.core.run import RunFolder
from medvlm.data.estimate import NoFiles
from medvlm.export.proof import parity
from medvlm.preflight.draft import make_draft
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.preflight.staging import build_stage
from medvlm.recipe.load import load, load_run
from medvlm.recipe.sources import open_sources
from tests import labelled_run
from tests.export.conftest import unproven
from tests.stages.batches import first
from tests.tiny_run import CARD, INSTRUCT, PAIR, recipe, staged, trained, written

SHORT = {"steps": 2, "batch": 4, "save_every": 0, "accumulate": 1}
FILMS = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}


@dataclass(frozen=True)
class Example:
    """recipe: folder for published models -> a recipe with one stage. Also the export target, and the outputs of
    forward."""

    recipe: Callable[[Path], dict[str, Any]]
    target: str
    outputs: set[str]


def decoding(folder: Path) -> dict[str, Any]:
    labelled_run.write_archive(folder / "archive")
    (folder / "squares.yaml").write_text(yaml.safe_dump(labelled_run.CARD))
    films = {"card": "squares.yaml", "root": str(folder / "archive")}
    return labelled_run.recipe(data={"films": films}, stages=[{**labelled_run.FIT, **SHORT}])


def answering(folder: Path) -> dict[str, Any]:
    return recipe(stages=[{**INSTRUCT, **SHORT}])


def embedding(folder: Path) -> dict[str, Any]:
    tower = recipe()["model"]["encoders"]["film"]
    model = {"encoders": {"film": {key: value for key, value in tower.items() if key != "connector"}}}
    return recipe(model=model, stages=[{**PAIR, **SHORT}])


def ready(folder: Path) -> dict[str, Any]:
    model = {"pretrained": str(save_tiny("qwen3_vl", folder / "model"))}
    return recipe(model=model, stages=[{**INSTRUCT, **SHORT, "trains": ["encoders", "connectors", "lora"]}])


def pretraining(folder: Path) -> dict[str, Any]:
    tower = recipe()["model"]["encoders"]["film"]["config"] | {"model_type": "vit"}
    look = {key: value for key, value in PAIR.items() if key not in ("text", "width")}
    loss = {"kind": "mae", "width": 16, "layers": 1, "heads": 2}
    stage = {**look, **SHORT, "kind": "ssl", "trains": ["encoders", "objective"], "loss": loss}
    model = {"encoders": {"film": {"kind": "transformers", "config": tower}}}
    return recipe(model=model, stages=[stage], export={"target": "custom"})


EXAMPLES = {
    "vlm": Example(answering, "custom", {"logits_LV"}),
    "dual": Example(embedding, "custom", {"media_NP", "texts_NP", "log_scale", "bias"}),
    "native": Example(ready, "stock", {"logits_LV"}),
    "bare": Example(pretraining, "custom", {"painted_NTP", "pooled_NE"}),
    "encoder": Example(decoding, "custom", {"decoders.square", "decoders.side", "decoders.traits"}),
}


@dataclass(frozen=True)
class Made:
    example: Example
    path: Path
    run: RunFolder
    exported: Path

    @property
    def stage(self) -> str:
        return str(load(self.path).recipe.stages[0].name)


TRAINED = [kind for kind in kinds("compositions") if component("compositions", kind).PARTS]
"""The others are only evaluated, see tests/evaluate/test_who.py."""


@pytest.fixture(scope="module", params=TRAINED)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A trained run, and its model as a folder that medvlm opens without the run."""
    assert request.param in EXAMPLES, f"add an example of {request.param} here"
    example, folder = EXAMPLES[request.param], tmp_path_factory.mktemp(request.param)
    path = written(folder, example.recipe(folder), FILMS)
    run = trained(path, folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "prove", unproven)
        exporting.export(run, folder / "exported", [example.target])
    return Made(example, path, run, folder / "exported")


def samples(made: Made, count: int = 3) -> list[tuple[Any, Any]]:
    loaded = load_run(made.run.root)
    source = open_sources(loaded, made.run.root.parent, say=lambda _: None)["films"]
    return [source.shards.read(*place) for place in source.locate_samples("test")[:count]]


def say(model: Opened, held: list[tuple[Any, Any]]) -> list[Any]:
    """The results of everything that the model can do with these samples."""
    if "answer" in model.can:
        return model.answer([Ask(s, files, question) for s, files in held for question in s.questions[:3]])
    if "decode" in model.can:
        decoding: Any = model
        return decoding.decode([Ask(s, files, question) for s, files in held for question in s.questions])
    if "embed" not in model.can:
        return [np.stack([next(model.embed_each(*each)).numpy() for each in held])]
    return [model.embed_media(held), model.embed_texts([s.report for s, _ in held])]


def test_the_parameters_on_the_meta_device_are_those_of_the_real_model(made: Made, tmp_path: Path) -> None:
    real = staged(made.path, made.run.root.parent, made.stage)
    with TemporaryDirectory() as folder:
        planned = build_stage(make_draft(load(made.path).recipe, {}, Path(folder)), 0, 1)
    assert all(p.is_meta for p in planned.model.parameters()) and not any(p.is_meta for p in real.model.parameters())
    assert [n for n, _ in planned.model.named_parameters()] == [n for n, _ in real.model.named_parameters()]
    parts = component("compositions", _kind(made)).PARTS
    assert {n.partition(".")[0] for n, _ in real.model.named_parameters()} <= set(parts)


def test_forward_returns_its_outputs_by_name(made: Made) -> None:
    stage = staged(made.path, made.run.root.parent, made.stage)
    (micro,) = stage.make_micros(first(stage), 1)
    outputs = stage.model(micro)
    assert type(outputs) is dict and outputs.keys() == made.example.outputs
    assert all(isinstance(tensor, torch.Tensor) for tensor in outputs.values())


def test_run_stage_and_exported_folder_are_the_same_model(made: Made) -> None:
    held = samples(made)
    by_run, by_stage, by_folder = (
        say(model, held)
        for opened in (open_model(made.run.root), open_model(made.run.root, made.stage), open_model(made.exported))
        for model in opened
    )
    assert by_run and (isinstance(by_run[0], np.ndarray) or any(by_run)), "it says nothing"
    for run, stage, folder in zip(by_run, by_stage, by_folder, strict=True):
        if isinstance(run, np.ndarray):
            np.testing.assert_array_equal(run, stage)
            np.testing.assert_allclose(run, folder, rtol=0, atol=1e-5)  # adapters are folded in
        else:
            assert run == stage == folder


def test_the_data_path_of_a_plan_makes_documents_of_the_real_length_without_files(made: Made) -> None:
    loaded = load_run(made.run.root)
    stage = loaded.recipe.stages[0]
    composition = composition_of_stage(loaded.recipe.model, stage)
    assembly = composition.prepare(loaded.recipe, made.run.tokenizer, refuse_to_train)
    real, planned = assembly.prepare, assembly.estimate(True).prepare
    for sample, files in samples(made):
        seen, blank = real.see(sample, files), planned.see(sample, NoFiles())
        assert [name for name, _ in seen.media] == [name for name, _ in blank.media]
        if "answer" in composition.CAN:
            shown = (sample, [q for q in sample.questions if not q.template.startswith("boxes")][:2])
            assert len(real.document(*shown, seen, ["media"])) == len(planned.document(*shown, blank, ["media"]))
            assert real.num_image_tokens(seen) == planned.num_image_tokens(blank) > 0


def test_one_composition_fits_a_model_and_a_need(made: Made) -> None:
    model = load(made.path).recipe.model
    of_stages = {component("stages", kind).NEEDS for kind in kinds("stages")}
    for need in component("compositions", _kind(made)).CAN & of_stages:
        fitting = [
            kind
            for kind in TRAINED
            if need in component("compositions", kind).CAN and component("compositions", kind).reason(model) is None
        ]
        assert fitting == [_kind(made)]
        assert name_of(composition_of(model, need)) == f"medvlm.compositions.{_kind(made)}"


def _kind(made: Made) -> str:
    return next(kind for kind, example in EXAMPLES.items() if example is made.example)
