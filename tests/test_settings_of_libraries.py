"""Settings that a recipe hands to a library are refused if the library would ignore or not take them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medvlm.cli import main
from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.recipe.config_keys import _find_class, _list_classes, drop_unknown, find_unknown
from medvlm.recipe.known import list_known_models, look_up_model
from medvlm.recipe.load import find_shipped, load
from tests import tiny_run

TOWER, LANGUAGE, SMALL = tiny_run.TOWER, tiny_run.LANGUAGE, tiny_run.SMALL
GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}


def change(where: str, **settings: Any) -> dict[str, Any]:
    """A tiny recipe with further keys in a config."""
    content: dict[str, Any] = json.loads(json.dumps(tiny_run.recipe()))
    part: Any = content
    for key in where.split("."):
        part = part[int(key) if key.isdecimal() else key]
    part.update(settings)
    return content


@pytest.mark.parametrize(
    ("where", "key", "said"),
    [
        ("model.language.config", "intermediate_sze", "did you mean 'intermediate_size'?"),
        ("model.language.config", "num_attention_head", "did you mean 'num_attention_heads'?"),
        ("model.language.config", "num_hidden_layer", "did you mean 'num_hidden_layers'?"),
        ("model.language.config", "n_heads_of_attention", "(it has attention_dropout, "),
        ("model.encoders.film.config", "patchsize", "did you mean 'patch_size'?"),
        ("model.encoders.film.config", "num_register_tokens", "SiglipVisionConfig has no such key"),
        ("stages.0.text.config", "hiden_size", "did you mean 'hidden_size'?"),
    ],
)
def test_a_key_that_a_config_class_would_ignore_is_refused(where: str, key: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        load(tiny_run.written(tmp_path, change(where, **{key: 4})))
    assert f"{where}.{key}: " in str(refused.value).replace("stages.pair", "stages.0") and said in str(refused.value)


def test_an_unknown_model_type_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no model type 'qwenn2', did you mean 'qwen2'\?"):
        load(tiny_run.written(tmp_path, change("model.language.config", model_type="qwenn2")))


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"model_type": "clip", "text_config": {"hiden_size": 3}}, ("text_config", "hiden_size")),
        (
            {"model_type": "idefics3", "text_config": {"model_type": "llama", "hiden_size": 3}},
            ("text_config", "hiden_size"),
        ),
        ({"model_type": "idefics3", "vision_config": {"image_sizes": 3}}, ("vision_config", "image_sizes")),
    ],
)
def test_the_configs_of_parts_are_checked_too(config: dict[str, Any], path: tuple[str, ...]) -> None:
    assert [problem.path for problem in find_unknown(config)] == [path]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2", "hidden_size": 8, "n_layer": 2},
        {"model_type": "qwen2", "rope_theta": 1e6, "rope_scaling": None, "torch_dtype": "float32"},
        {
            "model_type": "llama",
            "tie_word_embeddings": True,
            "_attn_implementation": "eager",
            "attn_implementation": "eager",
        },
        {"model_type": "bert", "num_labels": 3, "output_attentions": False, "architectures": ["BertModel"]},
    ],
)
def test_other_names_and_names_of_older_versions_are_taken(config: dict[str, Any]) -> None:
    assert list(find_unknown(config)) == []


@pytest.mark.parametrize(
    "model_type", ["qwen2", "llama", "bert", "siglip_vision_model", "dinov2", "gpt2", "clip", "vit"]
)
def test_the_classes_read_as_text_have_the_fields_of_the_real_ones(model_type: str) -> None:
    from dataclasses import fields

    file, name = _list_classes()[model_type]
    real = getattr(importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}"), name)
    taken = _find_class(file, name)
    assert taken is not None
    assert {field.name for field in fields(real)} <= taken.keys | taken.inner.keys() | {"model_type"}
    assert set(real.attribute_map) <= taken.keys


@pytest.mark.slow
def test_validation_does_not_import_transformers(tmp_path: Path) -> None:
    path = tiny_run.written(tmp_path, tiny_run.recipe())
    code = f"from medvlm.recipe.load import validate; validate({str(path)!r})"
    code += "; import sys; print('transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("model", list_known_models())
def test_a_published_config_loses_only_what_its_class_ignores(model: str) -> None:
    config = look_up_model(model).config
    kept = drop_unknown(config)
    assert kept.keys() == config.keys() and list(find_unknown(kept)) == []


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (
            {"kind": "timm", "net": "vit_tiny_patch16_224", "args": {"dept": 2}, "preprocess": {"size": [32, 32]}},
            r"args\.dept: VisionTransformer takes no such argument, did you mean 'depth'\?",
        ),
        (
            {"kind": "timm", "net": "resnet10t", "args": {"stem_with": 8}, "preprocess": {"size": [32, 32]}},
            r"args\.stem_with: ResNet takes no such argument, did you mean 'stem_width'\?",
        ),
        (
            {"kind": "inflated", "net": "resnet10t", "args": {"stem_with": 8}, "preprocess": {"size": [32, 32, 32]}},
            r"args\.stem_with: ResNet takes no such argument, did you mean 'stem_width'\?",
        ),
        (
            {"kind": "monai", "net": "SegResNet", "args": {"init_filter": 8}, "preprocess": {"size": [32] * 3, **GREY}},
            r"args\.init_filter: SegResNet takes no such argument, did you mean 'init_filters'\?",
        ),
        (
            {
                "kind": "monai",
                "net": "SwinUNETR",
                "args": {"feature_sizes": 24},
                "preprocess": {"size": [32] * 3, **GREY},
            },
            r"args\.feature_sizes: SwinUNETR takes no such argument, did you mean 'feature_size'\?",
        ),
        (
            {"kind": "monai", "patch": [8] * 3, "args": {"dropout": 0.1}, "preprocess": {"size": [32] * 3, **GREY}},
            r"args\.dropout: ViT takes no such argument",
        ),
    ],
)
def test_an_argument_that_a_network_does_not_take_is_refused_when_it_is_built(
    encoder: dict[str, Any], said: str
) -> None:
    kind = component("encoders", encoder["kind"])
    with pytest.raises(RecipeError, match=said):
        kind.build(kind.Config.model_validate(encoder))


@pytest.mark.parametrize(
    ("kind", "net", "args"),
    [
        ("timm", "vit_tiny_patch16_224", {"depth": "two"}),
        ("timm", "vit_tiny_patch16_224", {"embed_dim": 7}),
        ("timm", "vit_tiny_patch16_224", {"num_heads": 0}),
        ("timm", "vit_tiny_patch16_224", {"act_layer": "nonsense"}),
        ("inflated", "resnet10t", {"stem_width": -1}),
        ("monai", "SwinUNETR", {"feature_size": 7}),
        ("monai", "SwinUNETR", {"feature_size": "24"}),
        ("monai", "SwinUNETR", {"num_heads": [0, 1]}),
        ("monai", "SegResNet", {"init_filters": 0}),
        ("monai", "SegResNet", {"blocks_down": []}),
    ],
)
def test_a_value_with_which_a_network_cannot_be_built_is_refused(kind: str, net: str, args: dict[str, Any]) -> None:
    preprocess = {"size": [32, 32]} if kind == "timm" else {"size": [32] * 3, **(GREY if kind == "monai" else {})}
    encoder = component("encoders", kind)
    config = encoder.Config.model_validate({"kind": kind, "net": net, "args": args, "preprocess": preprocess})
    encoder.facts(config)
    with pytest.raises(RecipeError, match=r"model\.encoders: args.* preprocess\.size: .+; change this value"):
        encoder.build(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_attention_heads": 64}, ""),
        ({"hidden_act": "nonsense"}, "KeyError: 'nonsense'"),
        ({"intermediate_size": -1}, "RuntimeError"),
    ],
)
def test_a_config_of_which_transformers_builds_no_model_is_refused(changes: dict[str, Any], said: str) -> None:
    tower, film = component("encoders", "transformers"), change("model.encoders.film.config", **changes)
    config = film["model"]["encoders"]["film"]["config"]
    with pytest.raises(RecipeError, match=rf"model\.encoders: config: {said}.*; change this value"):
        tower.build(tower.Config(kind="transformers", config=config))
    tokenizer = train_tokenizer(["yes", "no"] * 4, 320, IMAGE)
    language = component("backbones", "causal")
    with pytest.raises(RecipeError, match=rf"model\.language\.config: {said}.*; change this value"):
        language.build(language.Config(kind="causal", config={**LANGUAGE, **changes}), tokenizer)
    text = component("texts", "transformers")
    config = {"model_type": "bert", **SMALL, "num_hidden_layers": 1, **changes}
    with pytest.raises(RecipeError, match=rf"text\.config: {said}.*; change this value"):
        text.build(text.Config(kind="transformers", config=config), tokenizer)


@pytest.mark.parametrize(
    ("where", "settings", "key"),
    [
        ("model.language.config", {"hidden_act": 3}, "model.language.config"),
        ("model.language.config", {"rms_norm_eps": "small"}, "model.language.config"),
        ("model.encoders.film.config", {"num_channels": "three"}, "model.encoders"),
    ],
)
def test_a_value_that_a_config_class_refuses_is_one_line(
    where: str, settings: dict[str, Any], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_run.written(tmp_path, change(where, **settings))
    assert main(["plan", str(path), "--gpus", "h100:1"]) == 2
    said = capsys.readouterr().err
    assert key in said and "Traceback" not in said


def test_a_rehearsal_refuses_a_setting_that_the_processor_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = find_shipped("recipes") / "systems" / "mmxu.yaml"
    assert main(["dry-run", str(path), "--runs", str(tmp_path), "model.processor={sise: 3}"]) == 2
    assert "model.processor.sise: " in capsys.readouterr().err
