"""Dual encoders as VisionTextDualEncoderModel, proven on unit embeddings."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from medvlm.core.config import permit
from medvlm.core.run import RunFolder
from medvlm.export.proof import parity
from medvlm.export.run import export
from medvlm.export.targets.vision_text_dual_encoder import reason as reason_of
from medvlm.recipe.targets import resolve

from .conftest import SMALL, prove_here, recipe_of, trained_of


@pytest.mark.slow
def test_embeddings_are_those_of_the_trained_model(tmp_path: Path, run: RunFolder) -> None:
    receipt = export(run, tmp_path / "dual", trained_of(recipe_of({}, None)), "stock")
    proof = json.loads((receipt.folder / "medvlm" / "parity.json").read_text())
    assert proof["passed"] and proof["class"] == "VisionTextDualEncoderModel"
    assert proof["max_abs_embedding_diff"] <= 1e-4
    # The sigmoid loss adds a constant to every score, which this class cannot hold: it must not go silently.
    assert receipt.audit.left_out["heads.scale.bias"].startswith("-10 ")
    assert "heads.scale.bias" in (receipt.folder / "README.md").read_text()

    from PIL import Image
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(receipt.folder), AutoProcessor.from_pretrained(receipt.folder)
    images = [Image.new("L", (50, 31)), Image.effect_noise((40, 77), 90)]
    out = model(**processor(images=images, text=["a nodule", "no finding"], padding=True, return_tensors="pt"))
    cosine = out.image_embeds @ out.text_embeds.T
    # 2.3 is what the towers were built with: score = exp(2.3) * cosine.
    torch.testing.assert_close(out.logits_per_image, cosine * torch.tensor(2.3).exp())
    assert (cosine[0] - cosine[1]).abs().max() > 1e-3, "two different images must not look alike"


TEXTS = {
    name: {"kind": "transformers", "config": {"model_type": f"{name}_text_model", **SMALL}, "max_tokens": 64}
    for name in ("clip", "siglip")
}
CLIP = ({"model_type": "clip_vision_model"}, {"text": TEXTS["clip"], "loss": {"kind": "clip"}})
SIGLIP = ({}, {"text": TEXTS["siglip"], "width": None})


@pytest.mark.parametrize(
    ("tower", "pairing", "stock", "target"),
    [
        (*CLIP, "CLIPModel", "stock"),
        (*SIGLIP, "SiglipModel", "stock"),
        (*CLIP, "VisionTextDualEncoderModel", "vision_text_dual_encoder"),
        ({}, {"width": None}, "VisionTextDualEncoderModel", "stock"),
    ],
)
def test_towers_of_one_family_become_its_own_class(
    tower: dict[str, Any],
    pairing: dict[str, Any],
    stock: str,
    target: str,
    tmp_path: Path,
    run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parity, "prove", prove_here)
    receipt = export(run, tmp_path / "dual", trained_of(recipe_of(tower, None, pairing=pairing)), target)
    assert receipt.parity["passed"] and receipt.parity["class"] == stock
    assert receipt.parity["max_abs_embedding_diff"] <= 1e-4
    assert ("bias" in receipt.parity["diffs"]) == (stock == "SiglipModel")
    assert receipt.audit.count()["missing"] == 0 and not receipt.audit.copied


@pytest.mark.parametrize(
    ("target", "tower", "pairing", "reason"),
    [
        ("siglip", {}, {"text": TEXTS["siglip"]}, "stages.pair.width is 24, and SigLIP has no linear heads"),
        (
            "siglip",
            {},
            {"text": TEXTS["siglip"], "width": None, "loss": {"kind": "clip"}},
            "stages.pair.loss is of kind clip",
        ),
        ("siglip", *CLIP, "encoders.film is a clip_vision_model, and SigLIP needs a siglip_vision_model"),
        ("vision_text_dual_encoder", *SIGLIP, "the text tower is a siglip_text_model"),
        ("clip", CLIP[0], {}, "the text tower is a bert, and CLIP needs a clip_text_model"),
        ("llava", {}, {}, "llava does not hold a dual encoder, which stage pair makes"),
    ],
)
def test_a_class_that_does_not_hold_the_towers_is_refused_with_the_reason(
    target: str, tower: dict[str, Any], pairing: dict[str, Any], reason: str
) -> None:
    recipe = recipe_of(tower, None, pairing=pairing)
    assert reason in resolve(target, recipe.model, recipe.stages)[2]


@pytest.mark.parametrize(
    ("stages", "reason"), [([], None), (["mylab.bag_of_words"], "the text tower is of kind mylab.bag_of_words")]
)
def test_only_towers_of_transformers_fit(
    stages: list[str], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit(["mylab"])
    for name in ("mylab", "mylab.bag_of_words"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))

    class Text:
        kind = "mylab.bag_of_words"

    class Stage:
        def list_text_towers(self) -> dict[str, Any]:
            return {"text": Text()}

    found = reason_of(recipe_of({}, None).model, [Stage()] * len(stages))
    assert found is None if reason is None else found is not None and found.startswith(reason)


@pytest.mark.slow
def test_a_timm_tower_and_a_bert_load_by_open_clip(tmp_path: Path, run: RunFolder) -> None:
    """The same composition as BiomedCLIP. open_clip has a bias for the sigmoid loss."""
    net = {"kind": "timm", "net": "resnet10t", "preprocess": {"size": [64, 64]}, "serves": ["film", "smear"]}
    recipe = recipe_of({}, None)
    trained = trained_of(
        recipe.model_copy(update={"model": type(recipe.model).model_validate({"encoders": {"film": net}})})
    )
    (stage,) = trained.recipe.stages
    published = stage.model_copy(
        update={"text": stage.text.model_copy(update={"model": "mylab/tiny-bert", "config": {}})}
    )
    trained = replace(trained, recipe=trained.recipe.model_copy(update={"stages": (published,)}))
    receipt = export(run, tmp_path / "dual", trained, "stock")
    assert receipt.kind == "open_clip" and receipt.parity["class"] == "CustomTextCLIP"
    assert (
        receipt.parity["max_abs_embedding_diff"] <= 1e-4
        and receipt.parity["diffs"]["bias"] == 0
        and receipt.parity["pixels"]["mean_grey_levels"] <= 1
    )
    assert not receipt.audit.left_out and receipt.audit.count()["missing"] == 0
    config = json.loads((receipt.folder / "open_clip_config.json").read_text())
    assert (
        config["model_cfg"]["text_cfg"]["hf_model_name"] == "mylab/tiny-bert"
        and config["model_cfg"]["init_logit_bias"] == -10
    )
    assert "library_name: open_clip" in (receipt.folder / "README.md").read_text()


def test_open_clip_is_told_what_it_cannot_build() -> None:
    net = {"kind": "timm", "net": "resnet10t", "preprocess": {"size": [64, 64]}, "serves": ["film"]}
    recipe = recipe_of({}, None)
    model = type(recipe.model).model_validate({"encoders": {"film": net}})
    assert "is not a hub id" in resolve("open_clip", model, recipe.stages)[2]
    model = type(recipe.model).model_validate({"encoders": {"film": {**net, "args": {"output_stride": 8}}}})
    assert "builds resnet10t by its name alone" in resolve("open_clip", model, recipe.stages)[2]
