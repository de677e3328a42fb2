"""nnU-Net's networks: Primus against blocks and rotations of timm, the residual encoder against plain functions, both
with the keys of their releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed_sincos import build_rotary_pos_embed
from torch import nn

from medvlm.core.config import component
from medvlm.core.contracts import Masking
from medvlm.core.errors import CheckpointError
from medvlm.encoders.primus import make_rotations
from medvlm.export.proof.nnunet_child import ResEnc

CUBE = {"size": [16, 16, 24], "channels": 1, "mean": [0.5], "std": [0.5]}
PRIMUS: dict[str, Any] = {"kind": "primus", "width": 24, "layers": 2, "heads": 2, "preprocess": CUBE}
RESENC: dict[str, Any] = {"kind": "resenc", "widths": [4, 6, 6], "blocks": [1, 2, 1], "preprocess": CUBE}
BLOCK = {
    "norm1": ("weight", "bias"), "norm2": ("weight", "bias"),
    "attn.q_proj": ("weight", "bias"), "attn.k_proj": ("weight",), "attn.v_proj": ("weight", "bias"),
    "attn.proj": ("weight", "bias"), "mlp.fc1_g": ("weight", "bias"), "mlp.fc1_x": ("weight", "bias"),
    "mlp.norm": ("weight", "bias"), "mlp.fc2": ("weight", "bias"),
}  # fmt: skip
"""As in checkpoints of nnssl, without layer scale."""


def built(settings: dict[str, Any]) -> Any:
    kind = component("encoders", settings["kind"])
    torch.manual_seed(0)
    made = kind.build(kind.Config.model_validate(settings)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def run_primus(encoder: Any, pixels: torch.Tensor, exchanged: bool = False) -> torch.Tensor:
    """The tokens of an encoder, computed as the release does. exchanged: as its masked autoencoder, `b (h w d) c`."""
    tower, grid = encoder.tower, encoder.grid
    maps = tower.down_projection.proj(pixels)
    if exchanged:
        maps = maps.transpose(2, 3)
    turns = build_rotary_pos_embed(list(grid), dim=8, in_pixels=False, ref_feat_shape=list(grid))
    tokens = maps.flatten(2).transpose(1, 2) + tower.eva.pos_embed
    for block in tower.eva.blocks:
        tokens = block(tokens, rope=torch.cat(turns, -1))
    tokens = tower.eva.norm(tokens)
    return tokens.unflatten(1, maps.shape[2:]).transpose(1, 2).flatten(1, 3) if exchanged else tokens


@pytest.mark.parametrize("extra", [{}, {"layer_scale": 0.1, "norm_attention": True}], ids=["plain", "as in nnU-Net"])
def test_primus_computes_what_the_release_does(extra: dict[str, Any]) -> None:
    encoder = built({**PRIMUS, **extra})
    pixels = torch.randn(2, 1, 16, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels).patches, run_primus(encoder, pixels), rtol=1e-5, atol=1e-5)


def test_a_masked_autoencoder_of_nnssl_has_its_first_two_axes_exchanged() -> None:
    encoder = built({**PRIMUS, "rows_first": True})
    pixels = torch.randn(2, 1, 16, 16, 24)
    with torch.no_grad():
        found, plain = encoder(pixels).patches, run_primus(encoder, pixels)
        torch.testing.assert_close(found, run_primus(encoder, pixels, exchanged=True), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_rotations_are_those_of_timm_and_are_stretched_to_another_grid() -> None:
    own, other = [2, 3, 4], [4, 3, 2]
    for grid in (own, other):
        turns = torch.cat(build_rotary_pos_embed(grid, dim=16, in_pixels=False, ref_feat_shape=own), -1)
        torch.testing.assert_close(make_rotations(tuple(grid), tuple(own), 24), turns)


def test_patches_that_are_left_out_keep_the_places_of_the_others() -> None:
    encoder = built(PRIMUS)
    pixels, kept = torch.randn(2, 1, 16, 16, 24), torch.tensor([[0, 5, 7], [2, 3, 11]])
    with torch.no_grad():
        some = encoder(pixels, Masking(kept_NK=kept)).patches
        # The release drops tokens and their rotations alike.
        turns = torch.cat(build_rotary_pos_embed([2, 2, 3], dim=8, in_pixels=False, ref_feat_shape=[2, 2, 3]), -1)
        tokens = encoder.tower.down_projection(pixels).flatten(2).transpose(1, 2) + encoder.tower.eva.pos_embed
        for n in (0, 1):
            own = tokens[n : n + 1, kept[n]]
            for block in encoder.tower.eva.blocks:
                own = block(own, rope=turns[kept[n]])
            torch.testing.assert_close(some[n : n + 1], encoder.tower.eva.norm(own), rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_nnssl_is_read_without_its_decoder(tmp_path: Path) -> None:
    donor = built(PRIMUS).tower
    names = {
        "down_projection.proj.weight",
        "down_projection.proj.bias",
        "eva.pos_embed",
        "eva.norm.weight",
        "eva.norm.bias",
    }
    names |= {f"eva.blocks.{n}.{part}.{key}" for n in (0, 1) for part, keys in BLOCK.items() for key in keys}
    stored = {name: tensor.clone() for name, tensor in donor.state_dict().items()}
    assert stored.keys() == names, "the keys are not those of the release"
    others = {
        "mask_token": torch.zeros(1),
        "decoder.norm.bias": torch.zeros(3),
        "up_projection.decode.0.bias": torch.ones(2),
    }
    save_file({**stored, **others}, tmp_path / "nnssl.safetensors")
    settings = {**PRIMUS, "weights": str(tmp_path / "nnssl.safetensors")}
    with pytest.raises(CheckpointError, match=r"decoder\.norm\.bias"):
        component("encoders", "primus").build(component("encoders", "primus").Config.model_validate(settings))
    settings["allow_unexpected"] = ["decoder.*", "up_projection.*", "mask_token"]
    made = component("encoders", "primus").build(component("encoders", "primus").Config.model_validate(settings))
    assert all(torch.equal(made.tower.state_dict()[name], tensor) for name, tensor in stored.items())


def test_the_residual_encoder_computes_what_plain_functions_do_with_its_keys(tmp_path: Path) -> None:
    encoder = built(RESENC)
    name = component("encoders", "resenc").name_for_nnunet
    weights = {each: tensor for key, tensor in encoder.tower.state_dict().items() for each in name(key)}
    assert {"encoder.stem.convs.0.conv.weight", "encoder.stem.convs.0.all_modules.1.bias",
            "encoder.stages.1.blocks.0.conv1.conv.bias", "encoder.stages.1.blocks.0.skip.1.norm.weight",
            "encoder.stages.2.blocks.0.conv2.all_modules.0.weight"} <= weights.keys()  # fmt: skip
    assert "encoder.stages.2.blocks.0.skip.1.conv.weight" not in weights, "its width stays, so the skip has no layer"
    plan = {"key_to_stem": "encoder.stem", "key_to_encoder": "encoder.stages"}
    pixels = torch.randn(2, 1, 16, 16, 24)
    with torch.no_grad():
        found = encoder(pixels)
        torch.testing.assert_close(found.patches, ResEnc(weights, plan, (1, 2, 1))(pixels), rtol=1e-5, atol=1e-5)
    assert found.grid == (4, 4, 6)
    save_file({key: tensor.clone() for key, tensor in weights.items()}, tmp_path / "nnunet.safetensors")
    read = {**RESENC, "weights": str(tmp_path / "nnunet.safetensors"), "prefix": "encoder.",
            "allow_unexpected": ["*.all_modules.*"]}  # fmt: skip
    again = component("encoders", "resenc").build(component("encoders", "resenc").Config.model_validate(read)).eval()
    with torch.no_grad():
        assert torch.equal(again(pixels).patches, found.patches)


def test_a_checkpoint_for_nnunet_has_a_decoder_that_reads_the_map_of_each_stage() -> None:
    """The names and shapes of ResidualEncoderUNet, without its last layers; nnU-Net refuses a file that lacks one."""
    kind = component("encoders", "resenc")
    config = kind.Config.model_validate(RESENC)
    weights = {
        each: tensor for key, tensor in built(RESENC).tower.state_dict().items() for each in kind.name_for_nnunet(key)
    }
    found = kind.complete_for_nnunet(config, weights)
    again = {name.removeprefix("decoder."): each for name, each in found.items() if name.startswith("decoder.encoder.")}
    assert again.keys() == weights.keys() and all(torch.equal(again[name], each) for name, each in weights.items())
    shapes: dict[str, tuple[int, ...]] = {}
    for stage, (wide, narrow) in enumerate([(6, 6), (6, 4)]):
        shapes |= {f"transpconvs.{stage}.weight": (wide, narrow, 2, 2, 2), f"transpconvs.{stage}.bias": (narrow,)}
        for conv, norm in (("conv", "norm"), ("all_modules.0", "all_modules.1")):
            own = f"stages.{stage}.convs.0"
            shapes |= {f"{own}.{conv}.weight": (narrow, 2 * narrow, 3, 3, 3), f"{own}.{conv}.bias": (narrow,)}
            shapes |= {f"{own}.{norm}.weight": (narrow,), f"{own}.{norm}.bias": (narrow,)}
    assert {name: tuple(found[f"decoder.{name}"].shape) for name in shapes} == shapes
    assert len(found) == len(weights) + len(shapes)


def test_the_networks_are_those_of_dynamic_network_architectures() -> None:
    """With pip install dynamic-network-architectures."""
    primus = pytest.importorskip("dynamic_network_architectures.architectures.primus")
    residual = pytest.importorskip("dynamic_network_architectures.building_blocks.residual_encoders")
    pixels = torch.randn(1, 1, 16, 16, 24)

    class Rope(nn.Module):  # timm 1.0.31 does not take their arguments
        def __init__(self, dim: int, feat_shape: Any, **others: Any):
            super().__init__()
            self.dim, self.shape = dim, list(feat_shape)

        def get_embed(self) -> torch.Tensor:
            return torch.cat(build_rotary_pos_embed(self.shape, dim=self.dim, in_pixels=False), -1)

    own = built({**PRIMUS, "layer_scale": 0.1, "norm_attention": True})
    theirs = primus.Primus(
        1, 24, (8, 8, 8), 2, 2, 2, (16, 16, 24), init_values=0.1, scale_attn_inner=True, rope_impl=Rope
    )
    theirs.eval().load_state_dict(own.tower.state_dict(), strict=False)
    with torch.no_grad():
        tokens, _ = theirs.eva(theirs.down_projection(pixels).flatten(2).transpose(1, 2))
        torch.testing.assert_close(own(pixels).patches, tokens, rtol=1e-5, atol=1e-5)
    encoder = built(RESENC)
    other = residual.ResidualEncoder(
        1, 3, [4, 6, 6], nn.Conv3d, 3, [1, 2, 2], [1, 2, 1], True, nn.InstanceNorm3d, {"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}
    ).eval()  # fmt: skip
    name = component("encoders", "resenc").name_for_nnunet
    weights = {
        key.removeprefix("encoder."): t for own_key, t in encoder.tower.state_dict().items() for key in name(own_key)
    }
    other.load_state_dict(weights)
    with torch.no_grad():
        maps = other(pixels)
        torch.testing.assert_close(encoder(pixels).patches, maps.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
