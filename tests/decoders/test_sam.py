"""SAM's decoder: what transformers' own SAM computes from the same prompts, with published weights of both layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medvlm.core.config import component
from medvlm.core.contracts import Features
from medvlm.core.errors import CheckpointError, ShapeError
from medvlm.data.prompts import Prompt, draw_prompt, stack_prompts

WIDTH, GRID, SIDE = 32, 4, 1024
SIZES: dict[str, Any] = {"width": WIDTH, "layers": 1, "heads": 2, "mlp": 16}
FORMS = {
    "box": Prompt(0, ("box",), box=(100.0, 200.0, 480.0, 801.0)),
    "points": Prompt(0, ("point",), points=((300.5, 400.5), (12.5, 900.5)), inside=(True, False)),
    "box and points": Prompt(0, ("box", "point"), (64.0, 0.0, 1024.0, 512.0), ((500.5, 100.5),), (True,)),
    "mask": Prompt(0, ("rough_mask",), mask=np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 700 < 300),
}


def config(**settings: Any) -> Any:
    return component("decoders", "sam").Config(**{"kind": "sam", "classes": ("polyp",), **SIZES, **settings})


def build(grid: int = GRID, side: int = SIDE, width: int = WIDTH, **settings: Any) -> Any:
    torch.manual_seed(0)
    return component("decoders", "sam").build(config(**settings), width, (grid, grid), (3, side, side))


def features(count: int, width: int = WIDTH, grid: int = GRID, seed: int = 0) -> Features:
    patches = torch.randn(count, grid * grid, width, generator=torch.Generator().manual_seed(seed))
    return Features(patches, patches.mean(1), (grid, grid))


@pytest.fixture(scope="module")
def theirs() -> Any:
    from transformers import SamConfig, SamModel

    torch.manual_seed(1)
    own = {"hidden_size": WIDTH, "iou_head_hidden_dim": WIDTH}
    settings: Any = SamConfig(
        vision_config={
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": SIDE // GRID,
            "output_channels": WIDTH,
            "num_pos_feats": WIDTH // 2,
            "scale": 1.0,
            "mlp_dim": 8,
            "window_size": 0,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE, "patch_size": SIDE // GRID},
        mask_decoder_config={**own, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    model = SamModel(settings)
    for parameter in model.parameters():  # transformers starts with biases of 0, which hide a mistake
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        model.shared_image_embedding.positional_embedding.copy_(
            model.prompt_encoder.shared_embedding.positional_embedding
        )
    return model


@pytest.fixture(scope="module")
def file(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "sam.safetensors"
    save_file({name: tensor.clone() for name, tensor in theirs.state_dict().items()}, path)
    return path


def ask_theirs(theirs: Any, seen: Features, prompt: Prompt, count: int) -> torch.Tensor:
    """Their masks, from coordinates of the centres of pixels."""
    given: dict[str, Any] = {}
    if prompt.box:
        left, top, right, bottom = prompt.box
        given["input_boxes"] = torch.tensor([[[left, top, right - 1, bottom - 1]]]).repeat(count, 1, 1)
    if prompt.points:
        given["input_points"] = torch.tensor([[list(prompt.points)]]).repeat(count, 1, 1, 1) - 0.5
        given["input_labels"] = torch.tensor([[[int(each) for each in prompt.inside]]]).repeat(count, 1, 1)
    if prompt.mask is not None:
        mask = torch.from_numpy(prompt.mask)[None, None].float()
        small = torch.nn.functional.interpolate(mask, size=(16, 16), mode="bilinear", antialias=True)
        given["input_masks"] = (20 * small - 10).repeat(count, 1, 1, 1)
    embeddings = seen.patches.transpose(1, 2).unflatten(2, (GRID, GRID))
    found: torch.Tensor = theirs(image_embeddings=embeddings, multimask_output=False, **given).pred_masks[:, 0]
    return found


@pytest.mark.parametrize("form", FORMS)
def test_masks_and_gradients_are_those_of_transformers(form: str, theirs: Any, file: Path) -> None:
    ours, seen, asked = build(weights=str(file)), features(2), stack_prompts([FORMS[form]] * 2)
    found, expected = ours(seen, asked)[""], ask_theirs(theirs, seen, FORMS[form], 2)
    resized = torch.nn.functional.interpolate(expected, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, resized, rtol=1e-5, atol=1e-5)
    weights = torch.randn(resized.shape, generator=torch.Generator().manual_seed(3)) / SIDE
    theirs.zero_grad()
    (found * weights).sum().backward()
    (resized * weights).sum().backward()
    other = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        expected_grad = torch.zeros_like(parameter) if other[name].grad is None else other[name].grad
        torch.testing.assert_close(parameter.grad, expected_grad, rtol=1e-4, atol=1e-5, msg=name)


def test_prompts_of_several_forms_are_marked_in_their_order() -> None:
    """In one batch as one by one, with points of different numbers."""
    decoder, seen = build(prompts=("box", "point", "class", "rough_mask")), features(5)
    one = Prompt(0, ("point",), points=((100.5, 60.5),), inside=(True,))
    mixed = [FORMS["points"], FORMS["box"], Prompt(0, ("class",)), FORMS["mask"], one]
    asked = stack_prompts(mixed)
    whole = decoder(seen, asked)
    for row in range(5):
        alone = Features(seen.patches[row : row + 1], seen.pooled[row : row + 1], seen.grid)
        torch.testing.assert_close(
            whole[""][row : row + 1], decoder(alone, asked.take([row]))[""], rtol=1e-4, atol=1e-5
        )
    assert stack_prompts([one, FORMS["points"]]).inside_SP.tolist() == [[1, -1], [1, 0]]
    whole[""].sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_other_encoders_are_projected_and_their_pixels_are_scaled_to_sams() -> None:
    """A box of an input of 64 pixels says what that of 1024 pixels says; only its frame is sixteen times larger."""
    small, large = build(grid=4, side=64, width=12), build(grid=4, side=1024, width=12)
    seen = features(1, 12)
    boxes = [stack_prompts([Prompt(0, ("point",), points=((x, y),), inside=(True,))]) for x, y in ((8, 40), (128, 640))]
    with torch.no_grad():
        coarse, fine = small(seen, boxes[0])[""], large(seen, boxes[1])[""]
    torch.testing.assert_close(coarse, torch.nn.functional.avg_pool2d(fine, 16), atol=0.02, rtol=0.05)
    assert coarse.shape == (1, 1, 64, 64)


def test_the_term_of_the_iou_is_its_squared_error() -> None:
    module, settings = component("decoders", "sam"), config(iou=0.5)
    labels = torch.zeros(2, 1, 4, 4, dtype=torch.long)
    labels[:, :, :2] = 1
    labels[1, :, 3] = -1
    logits = torch.full((2, 1, 4, 4), -1.0)
    logits[:, :, 1:] = 1.0  # 1 of 4 rows is shared; in the second, the last one is not known: 1 of 3
    said = torch.tensor([[0.5], [1.0]], requires_grad=True)
    total = module.add_up_term(settings, "iou", {"": logits, "iou": said}, labels, stack_prompts([FORMS["box"]] * 2))
    assert total.item() == pytest.approx(0.5 * ((0.5 - 1 / 4) ** 2 + (1 - 1 / 3) ** 2))
    assert module.weigh_term(settings, "iou", labels, None) == 2 and module.list_terms(config()) == ()
    (gradient,) = torch.autograd.grad(total, said)
    torch.testing.assert_close(gradient, torch.tensor([[0.25], [2 / 3]]))


# --- published weights -----------------------------------------------------------------------------------


def to_original(name: str) -> str:
    """The name in segment-anything of a tensor of transformers: what rename() undoes, written the other way round."""
    if "iou_prediction_head." in name or "output_hypernetworks_mlps." in name:
        for ours, theirs in (("layers.0", "layers.1"), ("proj_in", "layers.0"), ("proj_out", "layers.2")):
            if f".{ours}." in name:
                name = name.replace(f".{ours}.", f".{theirs}.")
                break
    pairs = {
        "upscale_conv1": "output_upscaling.0",
        "upscale_layer_norm": "output_upscaling.1",
        "upscale_conv2": "output_upscaling.3",
        "mask_embed.conv1": "mask_downscaling.0",
        "mask_embed.layer_norm1": "mask_downscaling.1",
        "mask_embed.conv2": "mask_downscaling.3",
        "mask_embed.layer_norm2": "mask_downscaling.4",
        "mask_embed.conv3": "mask_downscaling.6",
        "shared_embedding.positional_embedding": "pe_layer.positional_encoding_gaussian_matrix",
        "point_embed": "point_embeddings",
    }
    for ours, theirs in pairs.items():
        name = name.replace(ours, theirs)
    return name.replace("layer_norm", "norm")


def test_a_file_of_segment_anything_gives_the_same_weights(theirs: Any, file: Path, tmp_path: Path) -> None:
    parts = {n: t for n, t in theirs.state_dict().items() if n.startswith(("prompt_encoder.", "mask_decoder."))}
    original = {to_original(name): tensor.clone() for name, tensor in parts.items()}
    assert "mask_decoder.transformer.norm_final_attn.weight" in original
    assert "mask_decoder.output_hypernetworks_mlps.0.layers.2.bias" in original
    torch.save(original, tmp_path / "medsam.pth")
    one, other = build(weights=str(file)), build(weights=str(tmp_path / "medsam.pth"))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=0, msg=name)
    torch.testing.assert_close(one.mask_decoder.iou_token.weight, theirs.mask_decoder.iou_token.weight)


def test_a_folder_that_transformers_saved_gives_the_same_weights(theirs: Any, file: Path, tmp_path: Path) -> None:
    """It has the frequencies under one of their two names only."""
    theirs.save_pretrained(tmp_path)
    one, other = build(weights=str(file)), build(weights=str(tmp_path / "model.safetensors"))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=0, msg=name)


def test_weights_of_another_size_are_refused_by_name(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found nothing; give a SAM or MedSAM of the width, layers"):
        build(weights=str(file), layers=2)
    with pytest.raises(CheckpointError, match=r"lacking\.safetensors cannot be read"):
        build(weights=str(tmp_path / "lacking.safetensors"))
    (tmp_path / "no.pth").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"no\.pth cannot be read"):
        build(weights=str(tmp_path / "no.pth"))
    with pytest.raises(ValueError, match="give `model` or `weights`, not both"):
        config(model="a/b", weights="c")
    assert component("decoders", "sam").standalone(config(weights="c")).weights == ""


def test_volumes_and_heads_that_do_not_fit_are_refused() -> None:
    facts = component("decoders", "sam").facts
    with pytest.raises(ShapeError, match="its encoder takes volumes"):
        facts(config(), None, (2, 4, 4), (1, 8, 32, 32))
    with pytest.raises(ShapeError, match="3 heads do not divide half the width, 16"):
        facts(config(heads=3), None, None, None)
    assert facts(config(), None, None, (3, 64, 48)).shape == (1, 64, 48)


# --- prompts ---------------------------------------------------------------------------------------------


def test_a_box_lies_around_its_object_and_reaches_out_as_far_as_the_jitter() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:22] = True
    rng = np.random.default_rng(0)
    assert draw_prompt(mask, 0, config(), rng).box == (10, 4, 22, 9)
    drawn = np.array([draw_prompt(mask, 0, config(jitter_px=5), rng).box for _ in range(300)])
    out = (drawn - [10, 4, 22, 9]) * [-1, -1, 1, 1]
    assert out.min(0).tolist() == [0, 0, 0, 0] and out.max(0).tolist() == [5, 4, 5, 5], "4 at the edge of the image"
    filled = draw_prompt(mask, 0, config(), rng).fill(mask.shape)
    assert filled is not None and (filled == mask).all()


def test_points_lie_on_the_object_or_near_it() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:22] = True
    for seed in range(50):
        prompt = draw_prompt(
            mask, 0, config(prompts=("point",), points=3, points_beside=2), np.random.default_rng(seed)
        )
        on = [bool(mask[int(y), int(x)]) for x, y in prompt.points]
        assert on == list(prompt.inside) and 1 <= sum(on) <= 3 and len(set(prompt.points)) == len(prompt.points)
        assert all(1 <= y <= 12 and 4 <= x <= 28 for x, y in prompt.points)
        assert prompt.fill(mask.shape) is None


def test_a_mask_as_a_prompt_is_shifted() -> None:
    mask = np.zeros((8, 8), bool)
    mask[3:5, 3:5] = True
    found = [
        draw_prompt(mask, 0, config(prompts=("rough_mask",), jitter_px=1), np.random.default_rng(n)).mask
        for n in range(40)
    ]
    masks = [each for each in found if each is not None]
    places = {tuple(np.argwhere(each)[0]) for each in masks}
    assert len(masks) == 40 and all(each.sum() == 4 for each in masks)
    assert places == {(y, x) for y in (2, 3, 4) for x in (2, 3, 4)}


def test_training_starts_at_the_filled_box_and_boxes_alone_are_filled() -> None:
    """A cell that a box cuts has its share."""
    prompts, seen = ("box", "point"), features(2)
    filled, plain = build(prompts=prompts, fill_box=True), build(prompts=prompts)
    filled.load_state_dict({**plain.state_dict(), "from_box": torch.tensor(3.0)})
    box = Prompt(0, ("box",), box=(100.5, 200.0, 480.0, 801.25))
    asked = stack_prompts([box, FORMS["points"]])
    share = filled._fill(asked.boxes_S4, (SIDE, SIDE))[0, 0]
    assert share.sum().item() == pytest.approx(379.5 * 601.25) and share[300, 100] == 0.5 and share[801, 300] == 0.25
    assert torch.equal(share[:800, 101:].bool(), torch.from_numpy(box.fill((SIDE, SIDE)))[:800, 101:])
    coarse = filled._fill(asked.boxes_S4, (16, 16))[0, 0]
    expected = torch.nn.functional.avg_pool2d(share[None], SIDE // 16)[0]
    torch.testing.assert_close(coarse, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for parameter in filled.mask_decoder.parameters():
            parameter.zero_()
        found = filled(seen, asked)[""]
    torch.testing.assert_close(found[0, 0], 3 * (2 * share - 1))
    assert not found[1].any(), "a point fills nothing"
