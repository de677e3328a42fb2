"""A ready model whose language model has 4 bits, through a whole run on a CPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.commands import evaluate as evaluation
from medvlm.commands import export as exporting
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.quantize import is_quantized
from medvlm.core.run import RunFolder
from medvlm.data.native import Processor
from medvlm.models.native import NativeVLM
from medvlm.models.ready import build_native
from medvlm.models.restore import load_weights
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load
from medvlm.train.finished import find_final
from medvlm.train.state_file import read_published
from tests.test_native_runs import TUNE, recipe
from tests.tiny_run import CARD, differing, trace, trained, weights, written

pytest.importorskip("bitsandbytes")
FAMILY = "qwen3_vl"


def described(model: Path, **changes: Any) -> dict[str, Any]:
    given = recipe(model, stages=[{**TUNE, "trains": ["connectors", "lora"]}], **changes)
    given["model"]["quantize"] = "nf4"
    given["evaluate"] |= {"on": ["films:test"]}
    return given


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("quantized")
    card = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}
    return trained(written(folder, described(save_tiny(FAMILY, folder / "model")), card), folder / "runs")


def test_the_language_model_alone_is_quantized(tmp_path: Path) -> None:
    folder = save_tiny(FAMILY, tmp_path)
    blank = Processor(folder).blank()
    model = build_native(folder, blank, 0, quantize="nf4")
    small = {name for name, module in model.named_modules() if is_quantized(module)}
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "language.lm_head"}
    assert small == {name for name in linear if name.startswith("language.")}
    with torch.device("meta"):
        planned = build_native(folder, blank, 0, weights=False, quantize="nf4")
    assert {name for name, module in planned.named_modules() if is_quantized(module)} == small
    assert count_bytes(planned) == pytest.approx(count_bytes(model), rel=0.02)


def count_bytes(model: NativeVLM) -> int:
    """Of the quantized layers, with their scales."""
    layers = [module for module in model.modules() if is_quantized(module)]
    packed = sum(layer.weight.numel() for layer in layers)  # type: ignore[operator, union-attr]
    states = [layer.weight.quant_state for layer in layers if hasattr(layer.weight, "quant_state")]
    return packed + sum(state.absmax.numel() + 4 * state.state2.absmax.numel() for state in states)


def test_it_learns_and_goes_on_from_a_checkpoint_to_the_last_bit(run: RunFolder, tmp_path: Path) -> None:
    straight, kept = trace(run, "instruct"), weights(run, "instruct")
    shutil.copytree(run.root, tmp_path / "ready")
    again = RunFolder(tmp_path / "ready")
    shutil.rmtree(again.stage("instruct") / "step-2")
    (again.stage("instruct") / "stage.json").unlink()
    again = trained(run.root.parent.parent / "recipe.yaml", tmp_path)
    assert trace(again, "instruct") == straight and [step for step, *_ in straight] == [1, 2]
    assert differing(weights(again, "instruct"), kept) == []
    published = read_published(find_final(run.stage("instruct")))
    assert any(text.startswith("uint8:") for text in published.values())
    assert not any(tensor.dtype == torch.uint8 for tensor in kept.values()), "4-bit weights and scales are published"


@pytest.mark.slow
def test_it_is_evaluated_and_exported_with_the_weights_that_were_computed_with(run: RunFolder, tmp_path: Path) -> None:
    assert evaluation.evaluate(run.root)
    (receipt,) = exporting.export(run, tmp_path / "out")
    assert receipt.parity["passed"] and receipt.audit.merged
    assert "quantization_config" not in json.loads((receipt.folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": {"kind": "zero3"}}, "holds the gathered weights of every 4-bit layer .*; use engine.kind: fsdp2"),
        ({"model": {"encoders": {}, "quantize": "nf4"}}, "is empty; give `encoders`"),
        ({"model": {"pretrained": "a/b", "quantize": "int3"}}, "model.quantize"),
    ],
)
def test_what_cannot_be_quantized_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load(written(tmp_path, {**described(Path("a/b")), **change}, CARD))


def test_weights_of_4_bits_are_not_trained(tmp_path: Path) -> None:
    given = described(save_tiny(FAMILY, tmp_path / "model"))
    given["stages"] = [{**TUNE, "trains": ["language"], "lora": None}]
    with pytest.raises(RecipeError, match="is quantized, and only adapters of it can be trained"):
        trained(written(tmp_path, given, CARD), tmp_path / "runs")


def test_another_published_model_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    folder = save_tiny(FAMILY, tmp_path)
    blank = Processor(folder).blank()
    model, other = (build_native(folder, blank, 0, quantize="nf4") for _ in range(2))
    load_weights(other, model.state_dict(), None, "instruct/step-3")
    stored = model.state_dict()
    name = next(name for name in stored if name.endswith(".absmax"))
    stored[name] = stored[name] + 1
    with pytest.raises(CheckpointError, match=r"instruct/step-3: language\..* was quantized from other weights"):
        load_weights(other, stored, None, "instruct/step-3")
