"""MedNeXt as an encoder, against the formulas of its paper and MONAI's whole network, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import conv3d, gelu

from medvlm.encoders import monai

ARGS: dict[str, Any] = {
    "init_filters": 3, "blocks_down": (2, 1), "blocks_bottleneck": 1, "blocks_up": (1, 2), "kernel_size": 3,
    "encoder_expansion_ratio": (2, 3), "bottleneck_expansion_ratio": 4, "use_residual_connection": True,
}  # fmt: skip
PLAIN = {"mean": [0.5], "std": [0.5], "channels": 1}


def make_pair() -> tuple[Any, Any]:
    """Our encoder and MONAI's whole network, with the same weights."""
    from monai.networks.nets.mednext import MedNeXt

    torch.manual_seed(0)
    whole = MedNeXt(spatial_dims=3, in_channels=1, out_channels=2, **ARGS).double()
    with torch.no_grad():
        for parameter in whole.parameters():  # norms begin with ones and zeros, which would hide a missing one
            parameter.add_(0.3 * torch.randn_like(parameter))
    preprocess = {"size": (8, 12, 16), **PLAIN}
    config = monai.Config(kind="monai", net="MedNeXt", args=ARGS, layer=(-1,), preprocess=preprocess)
    encoder = monai.build(config).double()
    own = encoder.tower.state_dict()
    assert own.keys() < whole.state_dict().keys() and own
    encoder.tower.load_state_dict({name: whole.state_dict()[name] for name in own})
    return encoder, whole


def normalize(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Each channel of each sample by itself."""
    mean, variance = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), unbiased=False, keepdim=True)
    shape = (1, -1, 1, 1, 1)
    return (x - mean) / (variance + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)


def run_block(state: dict[str, torch.Tensor], at: str, x: torch.Tensor, stride: int) -> torch.Tensor:
    """Depthwise convolution and norm, expansion and GELU, compression; and what came in (arXiv 2303.09975, section
    2.1; where the resolution is halved, through a convolution of its own)."""
    w = {name.removeprefix(f"{at}."): tensor for name, tensor in state.items() if name.startswith(f"{at}.")}
    y = conv3d(x, w["conv1.weight"], w["conv1.bias"], stride=stride, padding=1, groups=x.shape[1])
    y = gelu(conv3d(normalize(y, w["norm.weight"], w["norm.bias"]), w["conv2.weight"], w["conv2.bias"]))
    y = conv3d(y, w["conv3.weight"], w["conv3.bias"])
    return y + (x if stride == 1 else conv3d(x, w["res_conv.weight"], w["res_conv.bias"], stride=2))


def run_paper(state: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    x, found = conv3d(x, state["stem.weight"], state["stem.bias"]), []
    for stage, blocks in enumerate(ARGS["blocks_down"]):
        for number in range(blocks):
            x = run_block(state, f"enc_stages.{stage}.{number}", x, 1)
        found.append(x)
        x = run_block(state, f"down_blocks.{stage}", x, 2)
    return [*found, run_block(state, "bottleneck.0", x, 1)]


def run_monai(whole: Any, x: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    parts = [*whole.enc_stages, whole.bottleneck]
    hooks = [part.register_forward_hook(lambda _, __, output: found.append(output)) for part in parts]
    whole(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_tokens_and_gradients_are_those_of_the_paper_and_of_monai(layer: int) -> None:
    encoder, whole = make_pair()
    encoder.layers = (layer,)
    volume = torch.randn(2, 1, 8, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    volume.requires_grad_()
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in whole.state_dict().items()}
    own, weight_of = dict(encoder.tower.named_parameters()), dict(whole.named_parameters())
    tokens = encoder(volume).patches
    draw = torch.randn(tokens.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    slopes = torch.autograd.grad((tokens * draw).sum(), [volume, *own.values()], allow_unused=True)
    assert tokens.shape[2] == 3 * 2**layer and sum(slope is not None for slope in slopes) > 10
    for stages, named in ((run_paper(state, volume), state), (run_monai(whole, volume), weight_of)):
        expected = stages[layer].flatten(2).transpose(1, 2)
        torch.testing.assert_close(tokens, expected, rtol=1e-9, atol=1e-10)
        inputs = [volume, *(named[name] for name in own)]
        right = torch.autograd.grad((expected * draw).sum(), inputs, allow_unused=True)
        for name, a, b in zip(("volume", *own), slopes, right, strict=True):
            assert (a is None) == (b is None), name
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)
