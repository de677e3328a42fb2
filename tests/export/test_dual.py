"""Dual encoders as VisionTextDualEncoderModel, proven on unit embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medvlm.core.run import RunFolder
from medvlm.export.run import export
from medvlm.export.stock import stock_reason

from .conftest import recipe_of, trained_of


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


@pytest.mark.parametrize(("stages", "reason"), [([], None), (["mylab.bag_of_words"], "the text tower is of kind mylab.bag_of_words")])
def test_only_towers_of_transformers_fit(stages: list[str], reason: str | None) -> None:
    class Text:
        kind = "mylab.bag_of_words"

    class Stage:
        text = Text()

    found = stock_reason(recipe_of({}, None).model, [Stage()] * len(stages))
    assert found is None if reason is None else found is not None and found.startswith(reason)
