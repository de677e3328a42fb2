"""Exports of one encoder of a trained model, as a folder of its library or as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.run import RunFolder
from medvlm.export.proof import parity
from medvlm.export.run import ExportReceipt, export
from medvlm.recipe.targets import explain_unknown, resolve

from .conftest import prove_here, recipe_of, trained_of
from .test_custom import VOLUME

NET = {
    "kind": "timm",
    "net": "resnet10t",
    "preprocess": {"size": [64, 64]},
    "serves": ["smear"],
    "connector": {"kind": "linear"},
}
VIT = {
    "kind": "timm",
    "net": "vit_tiny_patch16_224",
    "args": {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": [32, 48]},
    "serves": ["smear"],
    "connector": {"kind": "mlp"},
    "preprocess": {"size": [32, 48], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "window": [0, 200]},
}
NEW: dict[str, Any] = {}
"""`language` without settings of its own."""


@pytest.fixture
def exported(tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(parity, "prove", prove_here)

    def make(target: str, language: dict[str, Any] | None = NEW, **encoders: Any) -> ExportReceipt:
        return export(run, tmp_path / "out", trained_of(recipe_of({}, language, **encoders)), target)

    return make


def test_a_tower_of_transformers_loads_with_its_processor(exported: Any) -> None:
    receipt = exported("encoder.film", ct=VOLUME)
    assert (
        receipt.kind == "tower"
        and receipt.parity["class"] == "SiglipVisionModel"
        and receipt.parity["max_abs_embedding_diff"] <= 1e-4
    )
    assert set(receipt.parity["diffs"]) == {"pixels", "hidden", "pooled"}
    # Adapters of the tower are folded in, those of the language model are none of this folder's business.
    assert receipt.audit.merged and all(name.startswith("encoders.film.tower.") for name in receipt.audit.adapters)
    assert set(receipt.audit.left_out) == {"encoders.ct", "connectors.film", "connectors.ct", "language"}
    card = (receipt.folder / "README.md").read_text()
    assert "pipeline_tag: image-feature-extraction" in card and "only one encoder of the trained model" in card


@pytest.mark.parametrize("net", [NET, VIT], ids=["resnet", "vit"])
def test_a_network_of_timm_loads_by_timm(exported: Any, net: dict[str, Any]) -> None:
    receipt = exported("encoder.net", net=net)
    assert receipt.kind == "timm" and receipt.parity["max_abs_embedding_diff"] <= 1e-4
    assert receipt.parity["pixels"]["mean_grey_levels"] <= 1
    assert "library_name: timm" in (receipt.folder / "README.md").read_text()


@pytest.mark.slow
def test_an_encoder_of_volumes_becomes_a_graph_with_its_connector(exported: Any) -> None:
    receipt = exported("encoder.ct", ct=VOLUME)
    assert receipt.kind == "onnx" and set(receipt.parity["diffs"]) == {"image_patches", "image_pooled", "image_tokens"}
    assert receipt.parity["max_abs_embedding_diff"] <= 1e-4
    assert (
        any(name.startswith("connectors.ct.") for name in receipt.audit.replaced)
        and "connectors.ct" not in receipt.audit.left_out
    )
    import onnx

    graph = onnx.load(receipt.folder / "model.onnx")
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch may have any size"
    assert str(Path(__file__).parents[2]).encode() not in (receipt.folder / "model.onnx").read_bytes()


PRIMUS = {"kind": "primus", "size": "S", "layer_scale": 0.1, "norm_attention": True}
CUBE = {"channels": 1, "mean": [0.5], "std": [0.5], "fit": "crop", "spacing_mm": [2.0, 1.0, 1.0], "window": [0, 4000]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "size", "name"), [(PRIMUS, [16, 16, 24], "PrimusS"), ({"kind": "resenc"}, [64, 64, 64], "ResEncL")]
)
def test_a_network_of_nnunet_becomes_a_checkpoint_for_its_fine_tuning(
    net: dict[str, Any], size: list[int], name: str, run: RunFolder, tmp_path: Path
) -> None:
    encoder = {**net, "serves": ["ct"], "connector": {"kind": "linear"}, "preprocess": {**CUBE, "size": size}}
    receipt = export(run, tmp_path / "out", trained_of(recipe_of({}, {}, ct=encoder)), "encoder.ct")
    assert receipt.kind == "nnunet" and receipt.parity["class"] == name
    assert receipt.parity["max_abs_embedding_diff"] <= 1e-4 and not any(receipt.parity["loading"].values())
    stored = torch.load(receipt.folder / "checkpoint.pth", weights_only=True)
    plan = stored["nnssl_adaptation_plan"]
    (seen,) = plan["pretrain_plan"]["configurations"].values()
    assert seen == {"spacing": [2.0, 1.0, 1.0], "patch_size": size} and plan["pretrain_num_input_channels"] == 1
    keys = plan["key_to_encoder"], plan["key_to_stem"]
    own = {each for each in stored["network_weights"] if not each.startswith("decoder.")}
    assert all(any(each.startswith(f"{key}.") for key in keys) for each in own)
    assert all(f"{key}.weight" in stored["network_weights"] for key in plan["keys_to_in_proj"])


@pytest.mark.slow
def test_of_a_dual_encoder_the_graph_gives_unit_embeddings(exported: Any) -> None:
    receipt = exported("onnx", None)
    assert (
        set(receipt.parity["diffs"]) == {"image_patches", "image_pooled", "image_embeds"}
        and receipt.parity["max_abs_embedding_diff"] <= 1e-4
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("encoder", "it has several encoders: choose one of encoder.film, encoder.ct"),
        ("encoder.pet", "there is no encoder 'pet'"),
        ("tower.ct", "encoders.ct is of kind monai, not a tower of transformers"),
        ("timm.film", "encoders.film is of kind transformers, not a timm network"),
        ("nnunet.ct", "encoders.ct is of kind monai, not a network of nnU-Net"),
    ],
)
def test_an_encoder_that_is_not_there_is_refused_with_the_choice(target: str, reason: str) -> None:
    recipe = recipe_of({}, {}, ct=VOLUME)
    assert reason in resolve(target, recipe.model, recipe.stages)[2]


def test_names_of_targets() -> None:
    assert (
        explain_unknown("stock") is None
        and explain_unknown("encoder.film") is None
        and explain_unknown("onnx.ct") is None
    )
    assert "did you mean 'adapter'" in str(explain_unknown("adaptor"))
    assert explain_unknown("stock.film") is not None
