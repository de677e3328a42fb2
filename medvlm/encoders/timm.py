"""Any 2D network of timm: ViT, CNN or hybrid."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from medvlm.core.contracts import EncoderConfig, EncoderFacts, Features, Preprocess


class Config(EncoderConfig):
    kind: Literal["timm"]
    net: str
    """A name of timm.list_models(), or hf-hub:ORG/NAME."""
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
        args = dict(config.args)
        if "img_size" not in args and _takes_img_size(config.net):
            args["img_size"] = before.size
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
            patch = self.tower.patch_embed.patch_size
            self.grid = tuple(side // p for side, p in zip(before.size, patch, strict=True))
            self.width: int = probe.shape[-1]
        else:
            self.grid = tuple(probe.shape[-2:]) if self.layout == "NCHW" else tuple(probe.shape[1:3])
            self.width = probe.shape[1] if self.layout == "NCHW" else probe.shape[-1]

    def forward(self, pixels_NCHW: torch.Tensor) -> Features:
        features = self.tower.forward_features(pixels_NCHW)
        if self.layout == "NTC":
            patches = features[:, self.prefix :]
        else:
            patches = (features.flatten(2).transpose(1, 2) if self.layout == "NCHW" else features.flatten(1, 2)).contiguous()
        return Features(patches, patches.mean(1), self.grid)


def _takes_img_size(net: str) -> bool:
    return any(family in net for family in ("vit", "deit", "eva", "beit", "swin", "cait", "mixer"))
