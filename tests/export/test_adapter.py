"""Adapters as a PEFT folder: over a stock base, with full paths, and always with an effect."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.errors import RecipeError, ShapeError
from medvlm.core.run import RunFolder
from medvlm.export.proof import parity
from medvlm.export.run import ExportReceipt, export
from medvlm.export.targets.adapter import is_misread, pattern_of
from medvlm.export.trained import Trained
from medvlm.models.lora import attach
from medvlm.preflight.rehearsal.ready import make_config, save_tiny
from medvlm.recipe.schema import Recipe

from .conftest import prove_here, recipe_of, trained_of


@pytest.fixture(scope="module")
def receipt(tmp_path_factory: pytest.TempPathFactory, run: RunFolder) -> ExportReceipt:
    return export(
        run,
        tmp_path_factory.mktemp("adapter") / "out",
        trained_of(recipe_of({}, {"tie_word_embeddings": True})),
        "adapter",
    )


def test_base_and_adapters_answer_as_the_trained_model(receipt: ExportReceipt) -> None:
    assert (
        receipt.parity["passed"]
        and receipt.parity["class"] == "PeftModelForCausalLM over LlavaForConditionalGeneration"
    )
    assert receipt.parity["max_abs_logit_diff"] <= 1e-4 < 0.01 < receipt.parity["adapter_effect"]
    assert receipt.parity["golden"] == 20 and not receipt.parity["golden_that_differ"]
    assert not receipt.audit.merged and receipt.audit.count()["missing"] == 0


def test_adapters_are_where_peft_looks_for_them(receipt: ExportReceipt) -> None:
    from peft import PeftConfig
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText

    config: Any = PeftConfig.from_pretrained(receipt.folder)
    modules = dict(AutoModelForImageTextToText.from_pretrained(receipt.folder / "base").named_modules())
    with safe_open(receipt.folder / "adapter_model.safetensors", "pt") as stored:
        layers = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in stored.keys()}  # noqa: SIM118
        assert len(list(stored.keys())) == len(receipt.audit.adapters) == 2 * len(layers)
    assert layers <= modules.keys()
    assert {name for name in modules if re.fullmatch(str(config.target_modules), name)} == layers
    assert all(name.startswith(("model.language_model.layers.", "model.vision_tower.")) for name in layers)
    assert config.task_type == "CAUSAL_LM" and config.modules_to_save is None and config.inference_mode


def test_the_card_tells_the_hub_that_it_is_an_adapter(receipt: ExportReceipt) -> None:
    card = (receipt.folder / "README.md").read_text()
    assert "library_name: peft" in card and "pipeline_tag: image-text-to-text" in card
    assert "PeftModel.from_pretrained(base," in card and "modules_to_save" in card
    names = {str(p.relative_to(receipt.folder)) for p in receipt.folder.rglob("*") if p.is_file()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base/model.safetensors",
        "base/processor_config.json",
    } <= names


def test_adapters_without_effect_fail_the_proof(
    tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers silently ignore adapters whose names do not match; here that is an error."""
    monkeypatch.setattr(parity, "prove", prove_here)
    trained = trained_of(recipe_of({}, {}))
    model: Any = trained.model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    with pytest.raises(parity.ParityError, match=r'"adapter_effect": (0\.0|\d\.\d*e-0[5-9])[,}]'):
        export(run, tmp_path / "out", trained, "adapter")


def test_a_model_without_adapters_is_refused(tmp_path: Path, run: RunFolder, no_children: None) -> None:
    recipe = recipe_of({}, {})
    bare = recipe.stages[0].model_copy(update={"trains": ("connectors",), "lora": None})
    with pytest.raises(RecipeError, match="no stage trains adapters"):
        export(run, tmp_path / "out", trained_of(recipe.model_copy(update={"stages": (bare,)})), "adapter")
    trained = trained_of(recipe)
    from medvlm.models.lora import merge

    merge(trained.model)
    with pytest.raises(ShapeError, match="has no adapters"):
        export(run, tmp_path / "out", trained, "adapter")


def test_numbers_of_layers_are_left_open_only_where_all_are_meant() -> None:
    modules = [
        f"{part}.layers.{i}.{leaf}"
        for part in ("language", "tower")
        for i in range(12)
        for leaf in ("q_proj", "k_proj")
    ]
    assert (
        pattern_of([m for m in modules if m.startswith("language") and m.endswith("q_proj")], modules)
        == r"language\.layers\.\d+\.q_proj"
    )
    assert pattern_of(["tower.layers.1.k_proj"], modules) == r"tower\.layers\.1\.k_proj"
    assert (
        json.loads(json.dumps(pattern_of(["tower.layers.11.k_proj", "tower.layers.1.k_proj"], modules))).count("|") == 1
    )


@pytest.mark.parametrize("family", ["glm4v_moe", "qwen3_vl_moe"])
def test_layers_that_peft_takes_for_experts_are_named_by_their_weights(family: str) -> None:
    """GLM-4.5V has dense layers of names that the experts of older releases had."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        stock = AutoModelForImageTextToText.from_config(make_config(family)[0])
    names = [name for name, module in stock.named_modules() if isinstance(module, torch.nn.Linear)]
    language = [name for name in names if ".language_model." in name]
    for layers in (language, [name for name in language if name.endswith("gate_proj")]):
        config = LoraConfig(target_modules=pattern_of(layers, names))
        assert not layers or is_misread(config, stock) == (family == "glm4v_moe")


def of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trains: list[str]) -> Trained:
    """A ready model in this machine's hub cache, with adapters on its language model that do
    something."""
    import torch
    from huggingface_hub import constants

    from medvlm.data.native import Processor, make_native_prepare
    from medvlm.models.ready import build_native

    cached = tmp_path / "cache" / "models--lab--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123abc")
    snapshot = save_tiny("llava", cached / "snapshots" / "0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    prepare = make_native_prepare(Processor(snapshot), {}, "", 1000)
    model: Any = build_native(snapshot, prepare.processor.blank(), 0).eval()
    composed = recipe_of({}, {})
    stage = {
        **composed.stages[0].model_dump(by_alias=True),
        "trains": trains,
        "lora": {"rank": 4, "targets": ["language"]},
    }
    recipe = Recipe.model_validate(
        {**composed.model_dump(by_alias=True), "model": {"pretrained": "lab/tiny"}, "stages": [stage]}
    )
    attach(model, recipe.stages[0].lora, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        for name, parameter in model.named_parameters():
            if "lora_B" in name or (name.startswith("connectors.") and "connectors" in trains):
                parameter.data.normal_(std=0.1)
    plain = recipe.model_dump(mode="json", by_alias=True, exclude={"extends": True})
    tokenizer = prepare.processor.tokenizer
    return Trained(
        model,
        tokenizer,
        {},
        recipe.stages[0].name,
        recipe,
        plain,
        "0123abcd",
        trained_of(composed).cards,
        prepare=prepare,
    )


@pytest.mark.parametrize("trains", [["lora"], ["connectors", "lora"]], ids=["adapters", "connector-too"])
def test_a_model_of_the_hub_stays_there(
    trains: list[str], tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "prove", prove_here)
    receipt = export(run, tmp_path / "out", of_the_hub(tmp_path, monkeypatch, trains), "adapter")
    config = json.loads((receipt.folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("lab/tiny", "0123abc")
    assert config["modules_to_save"] == (["model.multi_modal_projector"] if "connectors" in trains else None)
    assert (
        receipt.parity["passed"]
        and receipt.parity["max_abs_logit_diff"] <= 1e-4
        and receipt.parity["adapter_effect"] > 0.01
    )
    assert not (receipt.folder / "base").exists() and (receipt.folder / "processor_config.json").is_file()
    card = (receipt.folder / "README.md").read_text()
    assert 'AutoModelForImageTextToText.from_pretrained("lab/tiny")' in card and "base_model:\n- lab/tiny\n" in card
    assert not any(path.name == "model.safetensors" for path in receipt.folder.rglob("*"))
