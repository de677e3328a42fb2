"""CLIPSeg's decoder: what transformers' own computes from the same picture and text; and the study of transfer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Features
from medvlm.core.errors import CheckpointError, ShapeError
from medvlm.core.mask_prompts import ASKED, ReadTexts, TextWidth
from medvlm.data.mask_words import describe_mask
from medvlm.data.prompts import Prompt, stack_prompts
from medvlm.recipe.load import load

WIDTH, TEXT, PATCH, SIDE = 16, 12, 8, 32
GRID = (SIDE // PATCH, SIDE // PATCH)


def build(grid: tuple[int, int] = GRID, size: tuple[int, int] = (SIDE, SIDE), **settings: Any) -> Any:
    module = component("decoders", "clipseg")
    own = {"kind": "clipseg", "classes": ("polyp",), "width": 8, "heads": 2, "mlp": 12, "projection": 10}
    torch.manual_seed(0)
    return module.build(module.Config(**{**own, **settings}), 3 * WIDTH, grid, (3, *size), TextWidth(TEXT, TEXT))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "refined"])
def theirs(request: Any) -> Any:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    torch.manual_seed(1)
    tower = {"num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    settings = CLIPSegConfig(
        vision_config={"hidden_size": WIDTH, "patch_size": PATCH, "image_size": SIDE, **tower},
        text_config={"hidden_size": TEXT, "vocab_size": 30, "eos_token_id": 29, **tower},
        projection_dim=10, reduce_dim=8, extract_layers=[0, 1, 2], decoder_num_attention_heads=2,
        decoder_intermediate_size=12, use_complex_transposed_convolution=request.param,
    )  # fmt: skip
    model = CLIPSegForImageSegmentation(settings)
    for parameter in model.parameters():  # transformers starts with biases of 0, which hide a mistake
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def ask(model: Any, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[Features, Any]:
    """What the towers of a CLIPSeg give: layers, the class token, and the vector of the text."""
    hidden = model.clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    states = torch.cat([hidden[n] for n in (1, 2, 3)], -1).detach()
    pooled = model.clip.text_model(ids).pooler_output.detach()
    features = Features(states[:, 1:], states[:, 1:].mean(1), GRID, pixels=pixels, heads=states[:, :1])
    prompts = stack_prompts([Prompt(0, ("text",))] * len(pixels))
    read = {ASKED: ReadTexts(pooled, pooled[:, None], torch.ones(len(pooled), 1))}
    return features, prompts.__class__(**{**vars(prompts), "read": read})


def test_masks_and_gradients_are_those_of_transformers(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    refined = theirs.config.use_complex_transposed_convolution
    ours = build(model=str(tmp_path), refined=refined).eval()
    pixels, ids = torch.randn(2, 3, SIDE, SIDE), torch.tensor([[0, 5, 7, 29], [0, 9, 29, 1]])
    found = ours(*ask(theirs, pixels, ids))[""]
    expected = theirs(input_ids=ids, pixel_values=pixels).logits[:, None]
    if refined:  # of patches of 16 pixels, its two steps of a quarter make all pixels; of 8 pixels, half of them
        expected = torch.nn.functional.interpolate(expected, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(found)
    theirs.zero_grad()
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    other = {f"decoder.{name}": p for name, p in theirs.decoder.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        if name in other:  # transformers freezes the projection of texts
            torch.testing.assert_close(parameter.grad, other[name].grad, rtol=1e-4, atol=1e-5, msg=name)
    with pytest.raises(CheckpointError, match=r"expected decoder\.film_mul\.weight of shape"):
        build(model=str(tmp_path), refined=refined, width=4)


def test_patches_of_any_grid_without_a_class_token() -> None:
    built = build((2, 3), (16, 24))
    patches = torch.randn(1, 6, 3 * WIDTH)
    prompts = stack_prompts([Prompt(0, ("text",))])
    texts = [torch.randn(1, TEXT) for _ in "ab"]
    masks = []
    for text in texts:
        read = {ASKED: ReadTexts(text, text[:, None], torch.ones(1, 1))}
        asked = prompts.__class__(**{**vars(prompts), "read": read})
        masks.append(built(Features(patches, patches.mean(1), (2, 3)), asked)[""])
    assert masks[0].shape == (1, 1, 16, 24) and not torch.allclose(masks[0], masks[1])
    with pytest.raises(ShapeError, match="reads 3 layers, and the encoder gives 32 channels"):
        component("decoders", "clipseg").facts(
            component("decoders", "clipseg").Config(kind="clipseg", classes=("polyp",)), 32, (2, 2), (3, 16, 16)
        )


def test_the_study_of_transfer_has_its_terms() -> None:
    """The ten kinds of prompts in their order, what they say of a mask, and Dice with a fifth of cross-entropy."""
    recipe = load("systems/vlsm.yaml").recipe
    decoder, losses = recipe.model.decoders["polyp"], recipe.stages[0].losses["polyp"]
    import numpy as np

    mask = np.zeros((30, 30), bool)
    mask[:8, :8] = True
    said = [text.format_map(describe_mask(mask)) for text in decoder.texts["polyp"]]
    assert said[0] == "one small pink round polyp located in top left of the image" and "polyp" in said
    assert len(set(said)) == len(said) >= 9 and any("which is" in each and "located" in each for each in said)
    assert [(each.kind, each.weight) for each in losses] == [("dice", 1), ("binary_cross_entropy", 0.2)]


@pytest.mark.parametrize("off", ["text", "cross_entropy"])
def test_a_mask_and_its_loss_are_others_without_each_term(off: str) -> None:
    recipe = load("systems/vlsm.yaml").recipe
    decoder, losses = recipe.model.decoders["polyp"].as_one(), recipe.stages[0].losses["polyp"]
    built, patches = build(), torch.randn(1, 16, 3 * WIDTH, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(SIDE * SIDE).view(1, 1, SIDE, SIDE) % 3 == 0).long()

    def learn(text: torch.Tensor, kept: int) -> float:
        prompts = stack_prompts([Prompt(0, ("text",))])
        read = {ASKED: ReadTexts(text, text[:, None], torch.ones(1, 1))}
        asked = prompts.__class__(**{**vars(prompts), "read": read})
        logits = built(Features(patches, patches.mean(1), GRID), asked)[""]
        parts = [
            each.weight * component("objectives.heads", each.kind).add_up(each, logits, labels, decoder)
            for each in losses[:kept]
        ]
        return float(sum(parts).detach())

    ones = torch.ones(1, TEXT)
    whole = learn(ones, 2)
    assert whole == learn(ones, 2) != learn(0 * ones if off == "text" else ones, 1 if off == "cross_entropy" else 2)
