"""The dual encoder against transformers' VisionTextDualEncoderModel, and its bookkeeping with several encoders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from medvlm.encoders import monai, transformers
from medvlm.models.towers import DualEncoder, Pairs, build_dual
from medvlm.texts import transformers as text_transformers
from tests.models.tiny import PAD_ID, SMALL, VOCABULARY, Ids

PICTURE = {"image_size": 16, "patch_size": 8}


def dual(vision: str = "siglip_vision_model", bias: float | None = -10.0, volume: bool = False) -> DualEncoder:
    encoders: dict[str, Any] = {
        "film": transformers.Config(kind="transformers", config={"model_type": vision, **SMALL, **PICTURE})
    }
    if volume:
        encoders["volume"] = monai.Config(
            kind="monai", patch=(2, 4, 4), width=24, layers=1, heads=2, preprocess={"size": (4, 8, 8), "channels": 1}
        )
    text = text_transformers.Config(kind="transformers", config={"model_type": "bert", **SMALL}, max_tokens=32)
    return build_dual(encoders, text, Ids(), width=8, log_scale=1.5, bias=bias, seed=3).eval()


def pairs(n: int = 3) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 9, 3])[:n]
    mask = (torch.arange(9)[None] < lengths[:, None]).long()
    ids = torch.randint(3, VOCABULARY, (n, 9), generator=generator).masked_fill(mask == 0, PAD_ID)
    return Pairs(
        {"film": torch.randn(n, 3, 16, 16, generator=generator)},
        torch.arange(n)[:, None],
        ids,
        mask,
        torch.arange(n),
        tuple("abc"[:n]),
    )


@pytest.mark.parametrize("vision", ["siglip_vision_model", "clip_vision_model"])
def test_embeddings_and_similarities_are_those_of_the_stock_dual_encoder(vision: str) -> None:
    from transformers import VisionTextDualEncoderModel

    ours, batch = dual(vision), pairs()
    vision_tower, text_tower = ours.encoders["film"].tower, ours.text.tower
    stock: Any = VisionTextDualEncoderModel(
        vision_model=type(vision_tower)(vision_tower.config), text_model=type(text_tower)(text_tower.config)
    )
    stock.visual_projection = torch.nn.Linear(16, 8, bias=False)
    stock.text_projection = torch.nn.Linear(16, 8, bias=False)
    stock.vision_model.load_state_dict(vision_tower.state_dict())
    stock.text_model.load_state_dict(text_tower.state_dict())
    stock.visual_projection.load_state_dict(ours.heads["film"].state_dict())
    stock.text_projection.load_state_dict(ours.heads["text"].state_dict())
    stock.logit_scale.data.fill_(1.5)
    with torch.no_grad():
        expected = stock.eval()(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, pixel_values=batch.media["film"])
        images, texts, log_scale, bias = (ours(batch)[n] for n in ("media_NP", "texts_NP", "log_scale", "bias"))
    torch.testing.assert_close(images, expected.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(texts, expected.text_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_scale.exp() * images @ texts.T, expected.logits_per_image, rtol=0, atol=1e-5)
    assert bias is not None and bias.item() == -10


def test_padding_of_a_text_changes_nothing() -> None:
    model, batch = dual(), pairs()
    with torch.no_grad():
        whole = model.embed_texts(batch.ids_BT, batch.mask_BT)
        short = model.embed_texts(batch.ids_BT[2:, :3], batch.mask_BT[2:, :3])
    torch.testing.assert_close(whole[2:], short, rtol=0, atol=1e-6)


def test_pairs_of_two_encoders_come_back_in_their_own_order() -> None:
    model, batch = dual(volume=True), pairs()
    volumes = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    mixed = replace(
        batch, media={"volume": volumes, "film": batch.media["film"][:1]}, order_NV=torch.tensor([[1], [2], [0]])
    )  # volume 1, the film, volume 0
    with torch.no_grad():
        images = model(mixed)["media_NP"]
        expected = torch.cat(
            [
                model.embed_media({"volume": volumes[1:]}),
                model.embed_media({"film": batch.media["film"][:1]}),
                model.embed_media({"volume": volumes[:1]}),
            ]
        )
    torch.testing.assert_close(images, expected)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))


def test_without_a_bias_there_is_none_to_train() -> None:
    assert "heads.scale.bias" not in dict(dual(bias=None).named_parameters()) and "bias" not in dual(bias=None)(pairs())
