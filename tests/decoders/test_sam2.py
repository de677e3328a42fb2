"""SAM's decoder of version 2, on the levels of its own image encoders: what transformers' SAM 2 and SAM 3 compute from
the same pixels and prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Features, Level
from medvlm.core.errors import CheckpointError, ShapeError
from medvlm.data.prompts import Prompt, stack_prompts
from medvlm.encoders import sam_levels
from tests.decoders.test_sam import FORMS

WIDTH, SIDE, GRID = 32, 64, 4
HIERA = {
    "hidden_size": 8, "image_size": [SIDE, SIDE], "blocks_per_stage": [1, 1, 1, 1],
    "embed_dim_per_stage": [8, 16, 24, 32], "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [4, 4, 2, 2], "global_attention_blocks": [],
}  # fmt: skip
SIZES = [[16, 16], [8, 8], [4, 4]]
TOWERS: dict[str, dict[str, Any]] = {
    "sam2": {
        "model_type": "sam2_vision_model", "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA},
        "backbone_channel_list": [32, 24, 16, 8], "fpn_hidden_size": WIDTH, "backbone_feature_sizes": SIZES,
    },
    "sam3_tracker": {
        "model_type": "sam3_vision_model", "fpn_hidden_size": WIDTH, "backbone_feature_sizes": SIZES,
        "scale_factors": [4.0, 2.0, 1.0],
        "backbone_config": {
            "model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16, "window_size": 2,
            "global_attn_indexes": [1], "pretrain_image_size": SIDE,
        },
    },
}  # fmt: skip
"""Of SAM 3 the three levels that are used: with a fourth one, transformers adds what stands for no memory to that."""


def config(**settings: Any) -> Any:
    own = {"kind": "sam", "version": 2, "classes": ("polyp",), "width": WIDTH, "layers": 1, "heads": 2, "mlp": 16}
    return component("decoders", "sam").Config(**{**own, **settings})


def build(levels: tuple[Level, ...], **settings: Any) -> Any:
    torch.manual_seed(0)
    return component("decoders", "sam").build(config(**settings), WIDTH, (GRID, GRID), (3, SIDE, SIDE), levels)


def make_encoder(kind: str, model: str = "") -> Any:
    source: dict[str, Any] = {"model": model} if model else {"config": TOWERS[kind]}
    settings = {"kind": "sam_levels", **source, "preprocess": {"size": (SIDE, SIDE)}}
    return sam_levels.build(sam_levels.Config.model_validate(settings))


def make_theirs(kind: str) -> Any:
    from transformers import Sam2Config, Sam2Model, Sam3TrackerConfig, Sam3TrackerModel

    made, model = {"sam2": (Sam2Config, Sam2Model), "sam3_tracker": (Sam3TrackerConfig, Sam3TrackerModel)}[kind]
    mask = {"hidden_size": WIDTH, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings: Any = made(
        vision_config=dict(TOWERS[kind]),
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 16},
        mask_decoder_config={**mask, "iou_head_hidden_dim": WIDTH, "dynamic_multimask_via_stability": False},
    )
    torch.manual_seed(1)
    whole: Any = model(settings)
    for parameter in whole.parameters():  # transformers starts with biases of 0, which hide a mistake
        torch.nn.init.normal_(parameter, std=0.2)
    whole.shared_image_embedding.positional_embedding.copy_(whole.prompt_encoder.shared_embedding.positional_embedding)
    return whole.eval()


@pytest.fixture(scope="module", params=TOWERS)
def theirs(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    whole, folder = make_theirs(request.param), tmp_path_factory.mktemp(request.param)
    whole.save_pretrained(folder)
    return request.param, whole, folder


def scale(prompt: Prompt) -> tuple[Prompt, dict[str, Any]]:
    """A prompt of 1,024 pixels on SIDE pixels, and as the library takes it: from the centres of pixels of its input."""
    share = SIDE / 1024
    given: dict[str, Any] = {}
    if prompt.box:
        left, top, right, bottom = (share * n for n in prompt.box)
        given["input_boxes"] = torch.tensor([[[left, top, right - 1, bottom - 1]]]).repeat(2, 1, 1)
    if prompt.points:
        at = share * torch.tensor([[list(prompt.points)]])
        given["input_points"] = at.repeat(2, 1, 1, 1) - 0.5
        given["input_labels"] = torch.tensor([[[int(each) for each in prompt.inside]]]).repeat(2, 1, 1)
    mask = None if prompt.mask is None else prompt.mask[:: 1024 // SIDE, :: 1024 // SIDE]
    if mask is not None:
        small = torch.nn.functional.interpolate(
            torch.from_numpy(mask)[None, None].float(), size=(16, 16), mode="bilinear", antialias=True
        )
        given["input_masks"] = (20 * small - 10).repeat(2, 1, 1, 1)
    box: Any = tuple(share * n for n in prompt.box) if prompt.box else None
    points = tuple((share * x, share * y) for x, y in prompt.points)
    return Prompt(0, prompt.form, box, points, prompt.inside, mask), given


@pytest.mark.parametrize("form", FORMS)
def test_masks_and_gradients_are_those_of_transformers(form: str, theirs: tuple[str, Any, Path]) -> None:
    kind, whole, folder = theirs
    encoder = make_encoder(kind, str(folder)).eval()
    ours = build(encoder.levels, model=str(folder)).eval()
    assert [each.grid for each in encoder.levels] == [(16, 16), (8, 8), (4, 4)]
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    asked, given = scale(FORMS[form])
    found = ours(encoder(pixels), stack_prompts([asked] * 2))
    expected = whole(pixel_values=pixels, multimask_output=False, **given)
    masks = torch.nn.functional.interpolate(expected.pred_masks[:, 0], size=(SIDE, SIDE), mode="bilinear")
    torch.testing.assert_close(found[""], masks, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["iou"], expected.iou_scores[:, 0], rtol=1e-4, atol=1e-5)
    weights = torch.randn(masks.shape, generator=torch.Generator().manual_seed(3)) / SIDE
    whole.zero_grad()
    (found[""] * weights).sum().backward()
    (masks * weights).sum().backward()
    other = dict(whole.named_parameters())
    of_tower = {f"vision_encoder.{name}": each for name, each in encoder.tower.named_parameters()}
    for name, parameter in [*ours.named_parameters(), *of_tower.items()]:
        expected_grad = torch.zeros_like(parameter) if other[name].grad is None else other[name].grad
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        atol = 1e-4 * max(1.0, float(expected_grad.abs().max()))
        torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=atol, msg=name)
    assert all(parameter.grad is not None for parameter in ours.parameters()), "a rank would wait"


def test_sam_3_is_read_as_it_is_published(tmp_path: Path) -> None:
    """One file of a detector and of what boxes prompt: they share a backbone, and each has a neck of its own."""
    from safetensors.torch import save_file

    whole = make_theirs("sam3_tracker")
    of_detector = {"vision_encoder.backbone.": "detector_model.vision_encoder.backbone."}
    names = {**of_detector, "vision_encoder.neck.": "tracker_neck."}
    stored = {}
    for name, tensor in whole.state_dict().items():
        start = next((each for each in names if name.startswith(each)), "")
        stored[names.get(start, "tracker_model.") + name.removeprefix(start)] = tensor.clone()
        if start.endswith("neck."):
            stored[f"detector_model.{name}"] = torch.zeros_like(tensor)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    described = {"model_type": "sam3_video", "tracker_config": whole.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(described))
    encoder = make_encoder("", str(tmp_path)).eval()
    pixels = torch.randn(1, 3, SIDE, SIDE)
    for found, expected in zip(encoder(pixels).levels, whole.vision_encoder(pixels).fpn_hidden_states, strict=True):
        torch.testing.assert_close(found, expected)
    assert build(encoder.levels, model=str(tmp_path)).mask_decoder.iou_token.weight.equal(
        whole.mask_decoder.iou_token.weight
    )


def test_other_encoders_are_projected_and_names_ask_too() -> None:
    levels = tuple(Level(width, (side, side)) for width, side in ((6, 16), (8, 8), (10, 4)))
    decoder = build(levels, prompts=("class", "box"))
    maps = tuple(torch.randn(2, each.width, *each.grid) for each in levels)
    seen = Features(maps[-1].flatten(2).transpose(1, 2), maps[-1].flatten(2).mean(2), (4, 4), maps)
    box = Prompt(0, ("box",), box=(4.0, 4.0, 20.0, 30.0))
    asked = stack_prompts([Prompt(0, ("class",)), box])
    found = decoder(seen, asked)[""]
    assert found.shape == (2, 1, SIDE, SIDE)
    alone = Features(seen.patches[1:], seen.pooled[1:], (4, 4), tuple(each[1:] for each in maps))
    torch.testing.assert_close(found[1:], decoder(alone, asked.take([1]))[""], rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    for wrong in ((), levels[1:], (levels[1], levels[1], levels[2])):
        with pytest.raises(ShapeError, match="three levels, each twice as fine as the next"):
            build(wrong)


def test_weights_of_version_1_are_refused(tmp_path: Path) -> None:
    from tests.decoders.test_sam import build as build_first

    torch.save(build_first().state_dict(), tmp_path / "sam.pth")
    levels = tuple(Level(WIDTH, (side, side)) for side in (16, 8, 4))
    with pytest.raises(CheckpointError, match="found nothing"):
        build(levels, weights=str(tmp_path / "sam.pth"))
