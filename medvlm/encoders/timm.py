"""Any 2D network of timm: ViT, CNN or hybrid."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Preprocess
from medvlm.core.errors import ShapeError


class Config(EncoderConfig):
    kind: Literal["timm"]
    net: str
    """A name of timm.list_models(), or hf-hub:ORG/NAME. One of the hub that is made for another size than
    preprocess.size needs args: {img_size: [H, W]}; of timm's own names that is known."""
    pretrained: bool = False
    weights: str = ""
    """A local safetensors file with the network's weights."""
    args: dict[str, Any] = {}
    """Passed on to timm.create_model, e.g. {depth: 4, embed_dim: 128}."""
    preprocess: Preprocess


def facts(config: Config) -> EncoderFacts:
    return EncoderFacts(width=None, grid=None)


def preprocess(config: Config) -> Preprocess:
    return config.preprocess


def build(config: Config) -> nn.Module:
    return Net(config)


class Net(nn.Module):
    """[N, C, H, W] -> Features; prefix tokens (class, registers) are left out of the patches."""

    def __init__(self, config: Config):
        super().__init__()
        import timm

        before = config.preprocess
        args = {**_size_args(config.net, before.size), **config.args}
        self.tower = timm.create_model(config.net, pretrained=config.pretrained and not torch.empty(0).is_meta, num_classes=0, in_chans=before.channels, **args)
        if config.weights and not next(self.tower.parameters()).is_meta:
            from safetensors.torch import load_file

            self.tower.load_state_dict(load_file(config.weights))  # strict: a missing or unexpected key is an error
        self.input_shape = (before.channels, *before.size)
        self.prefix: int = getattr(self.tower, "num_prefix_tokens", 0)
        training = self.tower.training
        with torch.no_grad():
            probe = self.tower.eval().forward_features(torch.zeros(1, *self.input_shape))  # its shape is all that is used
        self.tower.train(training)
        # CNNs give [N, C, h, w]; Swin-like nets [N, h, w, C]; ViTs [N, T, C].
        self.layout = "NTC" if probe.ndim == 3 else "NHWC" if getattr(self.tower, "output_fmt", "") == "NHWC" else "NCHW"
        if self.layout == "NTC":
            # A hybrid's stem strides too, so the patch of its embedding says nothing: timm notes the whole reduction.
            reduction = self.tower.feature_info[-1]["reduction"]
            self.grid: tuple[int, ...] = tuple(side // reduction for side in before.size)
            self.width: int = probe.shape[-1]
        else:
            self.grid = tuple(probe.shape[-2:]) if self.layout == "NCHW" else tuple(probe.shape[1:3])
            self.width = probe.shape[1] if self.layout == "NCHW" else probe.shape[-1]
        if self.layout == "NTC" and probe.shape[1] != self.prefix + math.prod(self.grid):
            raise ShapeError(
                f"encoders: {config.net} gives {probe.shape[1]} tokens for {list(before.size)}, expected a grid of {list(self.grid)} "
                f"and {self.prefix} before it; choose a preprocess.size that its patches tile, or another network"
            )

    def forward(self, pixels_NCHW: torch.Tensor) -> Features:
        features = self.tower.forward_features(pixels_NCHW)
        if self.layout == "NTC":
            patches = features[:, self.prefix :]
        else:
            patches = (features.flatten(2).transpose(1, 2) if self.layout == "NCHW" else features.flatten(1, 2)).contiguous()
        return Features(patches, patches.mean(1), self.grid)


def _size_args(net: str, size: tuple[int, ...]) -> dict[str, Any]:
    """What tells a network that is made for one input size (a ViT, a Swin) about another one."""
    import timm

    if not timm.is_model(net):
        return {}
    known = timm.get_pretrained_cfg(net)
    return {"img_size": size} if known.fixed_input_size and size != tuple(known.input_size[1:]) else {}
